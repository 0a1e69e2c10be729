"""What becomes of each connection of a dead replica, and what is said of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from serve.replica.sidecar.slots import Lost, Stage


class Settings(NamedTuple):
    """What the replica told of itself.

    Attributes:
        backend: its tag.
        replica: its tag.
        retries: how many times more a request may be tried that a replica died of.
        segments: folder of its segments.
        static: fields of all its records.
        registry: folder in which the replicas of its backend on this node say where they are.
        others: (host, HTTP port) of each other replica of its backend.
    """

    backend: str
    replica: str
    retries: int
    segments: str
    static: Mapping[str, Any]
    registry: str
    others: Sequence[tuple[str, int]] = ()


class Verdict(Enum):
    """What becomes of a connection."""

    CLOSE = "close"
    """Nothing was asked, or part of the answer is gone: it ends."""
    REPEAT = "repeat"
    """Another replica gets the request, and its answer goes back over the connection."""
    ANSWER = "answer"
    """It gets a 502."""


class Ended(NamedTuple):
    """A request that was under way, and what became of its connection."""

    lost: Lost
    verdict: Verdict


def judge(lost: Lost, settings: Settings) -> Verdict:
    """What becomes of a connection."""
    if lost.stage is not Stage.RUNNING:
        return Verdict.CLOSE
    may_run = lost.runs <= settings.retries or not lost.is_begun
    return Verdict.REPEAT if lost.is_repeatable and may_run else Verdict.ANSWER


def make_answer(settings: Settings, lost: Lost) -> bytes:
    """The answer to a request that was under way.

    HAProxy adds its id, and makes the replica's tag of the last header (`ingress/render.py`).
    """
    what = (
        f"ended while it ran the request (attempt {lost.runs}); it may have been executed."
        if lost.is_begun
        else "ended before it began the request; it was not executed."
    )
    body = f'Replica "{settings.replica}" of backend "{settings.backend}" {what}'.encode()
    head = (
        "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n"
        f"x-serve-backend: {settings.backend}\r\n"
        f"x-serve-died: {lost.runs} {settings.replica}\r\n\r\n"
    )
    return head.encode() + body


def describe_end(ended: Ended, died_s: float) -> str:
    """What the record of a request says that was under way; `died_s`: monotonic seconds."""
    lost, verdict = ended
    if lost.stage is Stage.ANSWERING:
        return "This replica ended while it sent the answer, which was cut"
    fate = "another one gets it" if verdict is Verdict.REPEAT else "it was answered 502"
    if not lost.is_begun:
        return f"This replica ended before it began the request: {fate}"
    attempt = f"attempt {lost.runs}, {(died_s - lost.began_s) * 1000:.0f} ms"
    return f"This replica ended while it ran the request ({attempt}): {fate}"
