"""What a sidecar does once its replica is dead: end each connection as fits what it was at."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from serve.replica.sidecar.slots import SLOT_BYTES, Lost, Stage, read_slot

CONNECT_S = 1.0
"""Longest wait for a connection to another replica, seconds."""

ANSWER_S = 3600.0
"""Longest silence of the replica that got the request; HAProxy's limit comes first, seconds."""

LINGER_S = 2.0
"""How long an answer may take to be read, seconds."""

FIRST_BYTES_S = 0.2
"""Longest wait for what comes first over a connection, seconds."""

_READ_BYTES = 65_536


class Settings(NamedTuple):
    """What the replica told of itself.

    Attributes:
        backend: its tag.
        replica: its tag.
        retries: how many times more a request may be tried that a replica died of.
        segments: folder of its segments.
        static: fields of all its records.
        others: (host, HTTP port) of each other replica of its backend.
    """

    backend: str
    replica: str
    retries: int
    segments: str
    static: Mapping[str, Any]
    others: Sequence[tuple[str, int]] = ()


class Verdict(Enum):
    """What becomes of a connection."""

    CLOSE = "close"
    """Nothing was asked, or part of the answer is gone: it ends."""
    REPEAT = "repeat"
    """Another replica gets the request, and its answer goes back over the connection."""
    ANSWER = "answer"
    """It gets a 502."""


Ended = tuple[Lost, Verdict]


def judge(lost: Lost, settings: Settings) -> Verdict:
    """What becomes of a connection."""
    if lost.stage is not Stage.RUNNING:
        return Verdict.CLOSE
    may_repeat = lost.is_repeatable and (lost.runs <= settings.retries or not lost.is_begun)
    return Verdict.REPEAT if may_repeat and settings.others else Verdict.ANSWER


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


def describe_end(lost: Lost, verdict: Verdict, now_s: float) -> str:
    """What the record of a request says that was under way."""
    if lost.stage is Stage.ANSWERING:
        return "This replica ended while it sent the answer, which was cut"
    fate = "another one gets it" if verdict is Verdict.REPEAT else "it was answered 502"
    if not lost.is_begun:
        return f"This replica ended before it began the request: {fate}"
    attempt = f"attempt {lost.runs}, {(now_s - lost.began_s) * 1000:.0f} ms"
    return f"This replica ended while it ran the request ({attempt}): {fate}"


def end_all(
    listeners: Iterable[int],
    connections: Mapping[int, int],
    memory: memoryview,
    settings: Settings,
) -> None:
    """End all connections, record what was under way, see through what another replica got.

    Args:
        listeners: descriptors on which the replica listened.
        connections: descriptor of each connection, by its slot.
        memory: the slots.
        settings: of the replica.
    """
    ended: list[Ended] = []
    fresh = [socket.socket(fileno=descriptor) for descriptor in connections.values()]
    slots = [bytes(memory[n * SLOT_BYTES : (n + 1) * SLOT_BYTES]) for n in connections]
    for connection in _accept_all(listeners):
        fresh.append(connection)
        slots.append(bytes(SLOT_BYTES))
    threads = []
    for number, (connection, slot) in enumerate(zip(fresh, slots, strict=True)):
        connection.setblocking(False)
        lost = read_slot(slot, _peek(connection))
        verdict = judge(lost, settings)
        other = _connect(settings.others, number) if verdict is Verdict.REPEAT else None
        if verdict is Verdict.REPEAT and other is None:
            verdict = Verdict.ANSWER
        if verdict is Verdict.CLOSE:
            _close(connection)
        else:
            args = (connection, other, lost, make_answer(settings, lost))
            threads.append(threading.Thread(target=_see_through, args=args))
            threads[-1].start()
        if lost.stage is not Stage.IDLE:
            ended.append((lost, verdict))
    if ended:
        _record(ended, settings)
    for thread in threads:
        thread.join()


def _accept_all(listeners: Iterable[int]) -> list[socket.socket]:
    """The connections that the replica had not accepted, once each has said something."""
    accepted = []
    for descriptor in listeners:
        with socket.socket(fileno=descriptor) as listener:
            listener.setblocking(False)
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listener.accept()[0])
    for connection in accepted:
        connection.settimeout(FIRST_BYTES_S)
        with contextlib.suppress(OSError):
            connection.recv(1, socket.MSG_PEEK)
    return accepted


def _see_through(
    connection: socket.socket, other: socket.socket | None, lost: Lost, answer: bytes
) -> None:
    """Give a connection its answer: another replica's, or, if none comes, the given one."""
    with connection, contextlib.suppress(OSError):
        if not lost.is_begun:
            connection.recv(len(lost.kept))  # it is sent on from there
        if other is None or not _relay(connection, other, lost.repeated()):
            connection.setblocking(False)
            if not _drain(connection):
                return  # nobody is there
            connection.settimeout(LINGER_S)
            connection.sendall(answer)
        connection.settimeout(LINGER_S)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_READ_BYTES):
            pass


def _relay(connection: socket.socket, other: socket.socket, request: bytes) -> bool:
    """Send a request to another replica and its answer back; whether any of one came."""
    has_begun = False
    with other, contextlib.suppress(OSError):
        other.sendall(request)
        connection.settimeout(ANSWER_S)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(other, select.POLLIN)
        while ready := {descriptor for descriptor, _ in poll.poll(ANSWER_S * 1000)}:
            if other.fileno() in ready:
                if not (data := other.recv(_READ_BYTES)):
                    break
                connection.sendall(data)
                has_begun = True
            elif more := connection.recv(_READ_BYTES):  # of its body
                other.sendall(more)
            else:
                return True  # the client left
    return has_begun


def _connect(others: Sequence[tuple[str, int]], first: int) -> socket.socket | None:
    """A connection to one of them, a `first` of one's own for each; None if none takes it."""
    for number in range(len(others)):
        try:
            host, port = others[(first + number) % len(others)]
            other = socket.create_connection((host, port), CONNECT_S)
        except OSError:
            continue
        other.settimeout(ANSWER_S)
        return other
    return None


def _record(ended: Iterable[Ended], settings: Settings) -> None:
    """Write a record for each request; loads what that takes."""
    from observability.instrument.clock import next_time
    from observability.instrument.encode import encode_line, encode_tail
    from observability.instrument.formatter import LogLine
    from observability.instrument.retention import Retention
    from observability.instrument.segments import SegmentWriter

    writer = SegmentWriter(settings.segments, f"replica_{settings.replica}", Retention())
    tail = encode_tail(settings.static)
    now_s = time.monotonic()
    for lost, verdict in ended:
        text = describe_end(lost, verdict, now_s)
        line = LogLine(next_time(), "log", "ERROR", "ray.serve", text)
        line.request_id = lost.request_id
        writer.append(encode_line(line, tail))
    writer.close()


def _close(connection: socket.socket) -> None:
    """End it, whoever else has a descriptor of it: a process that user code forked, say."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _peek(connection: socket.socket) -> bytes:
    try:
        return connection.recv(_READ_BYTES, socket.MSG_PEEK)
    except OSError:
        return b""


def _drain(connection: socket.socket) -> bool:
    """Read what came, False at its end: closed with unread bytes, it would take its answer back."""
    try:
        while connection.recv(_READ_BYTES):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
