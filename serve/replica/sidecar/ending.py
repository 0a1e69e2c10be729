"""What a sidecar does once its replica is dead: end each connection as fits what it was at."""

from __future__ import annotations

import contextlib
import fcntl
import random
import select
import socket
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from serve.replica.sidecar import registry
from serve.replica.sidecar.exit import read_exit
from serve.replica.sidecar.slots import SLOT_BYTES, Lost, Stage, read_slot

CONNECT_S = 1.0
"""Longest wait for a connection to another replica, seconds."""

ANSWER_S = 3600.0
"""Longest silence of the replica that got the request; HAProxy's limit comes first, seconds."""

WAIT_S = 10.0
"""How long another replica, or the successor of a lone one, is looked for, seconds."""

LOOK_S = 0.1
LINGER_S = 2.0
"""How long an answer may take to be read, seconds."""

FIRST_BYTES_S = 0.2
"""Longest wait for what comes first over a connection, seconds."""

_READ_BYTES = 65_536
_ACKED_OFFSET = 120  # of tcpi_bytes_acked in Linux's struct tcp_info


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


def end_all(
    replica: int,
    accepted: Sequence[socket.socket],
    connections: Mapping[int, int],
    memory: memoryview,
    settings: Settings,
) -> None:
    """End all connections, see through what another replica gets, record what was under way.

    Args:
        replica: its pidfd.
        accepted: connections that the replica had not accepted.
        connections: descriptor of each that it had, by its slot.
        memory: the slots.
        settings: of the replica.
    """
    died_s = time.monotonic()
    registry.leave(settings.registry, settings.replica, settings.static["pid"])
    told: SimpleQueue[Ended] = SimpleQueue()
    threads = []
    for number, descriptor in connections.items():
        slot = bytes(memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES])
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        lost = read_slot(slot, _peek(connection), _count_sent(connection))
        if judge(lost, settings) is not Verdict.CLOSE:
            threads.append(Thread(target=_see_through, args=(connection, lost, settings, told)))
            continue
        _close(connection)
        if lost.stage is not Stage.IDLE:
            told.put(Ended(lost, Verdict.CLOSE))
    threads += [Thread(target=_see_fresh, args=(each, settings, told)) for each in accepted]
    for thread in threads:
        thread.start()
    _record(replica, died_s, told, threads, settings)


def _see_fresh(connection: socket.socket, settings: Settings, told: SimpleQueue[Ended]) -> None:
    """A connection that the replica had not accepted: its request comes any moment."""
    connection.settimeout(FIRST_BYTES_S)
    lost = read_slot(bytes(SLOT_BYTES), _peek(connection), 0)
    if judge(lost, settings) is Verdict.CLOSE:
        _close(connection)
    else:
        _see_through(connection, lost, settings, told)


def _see_through(
    connection: socket.socket, lost: Lost, settings: Settings, told: SimpleQueue[Ended]
) -> None:
    """Give a request its answer: another replica's, or, if none comes, our own."""
    verdict = judge(lost, settings)
    other = _connect(settings) if verdict is Verdict.REPEAT else None
    told.put(Ended(lost, verdict if other is not None else Verdict.ANSWER))
    with connection, contextlib.suppress(OSError):
        if not lost.is_begun:
            connection.recv(len(lost.kept))  # it is sent on from there
        if other is None or not _relay(connection, other, lost.repeated()):
            connection.setblocking(False)
            if not _drain(connection):
                return  # nobody is there
            connection.settimeout(LINGER_S)
            connection.sendall(make_answer(settings, lost))
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


def _connect(settings: Settings) -> socket.socket | None:
    """A connection to another replica, or to this one's successor; None if none comes in time."""
    deadline = time.monotonic() + WAIT_S
    while True:
        others = [(host, port) for host, port in settings.others]
        random.Random().shuffle(others)  # the shared one is the user's to seed
        for address in (*others, *registry.living(settings.registry)):
            with contextlib.suppress(OSError):
                other = socket.create_connection(address, CONNECT_S)
                other.settimeout(ANSWER_S)
                return other
        if time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_S)


def _record(
    replica: int,
    died_s: float,
    told: SimpleQueue[Ended],
    threads: Sequence[Thread],
    settings: Settings,
) -> None:
    """Write how the replica ended, and of each request, until all is done."""
    from serve.replica.sidecar.report import Report  # it loads much, and answers come first

    name = f"replica_{settings.replica}"
    report = Report(settings.segments, name, settings.static, read_exit(replica), died_s)
    while any(thread.is_alive() for thread in threads) or not told.empty():
        try:
            ended = told.get(timeout=LOOK_S)
        except Empty:
            continue
        report.tell(describe_end(ended, died_s), ended.lost)
    report.close()


def _close(connection: socket.socket) -> None:
    """End it, whoever else has a descriptor of it: a process that user code forked, say."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _count_sent(connection: socket.socket) -> int:
    """How many bytes the kernel was given to send: those acknowledged, and those in its queue."""
    acked = -1
    try:
        while acked != (now := _count_acked(connection)):  # no byte changed from one to the other
            acked = now
            (queued,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    except OSError:  # the other end is gone
        return acked
    return acked + int(queued)


def _count_acked(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_OFFSET + 8)
    (acked,) = struct.unpack_from("Q", info, _ACKED_OFFSET)
    return int(acked)


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
