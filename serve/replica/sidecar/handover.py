"""Hands over what a dead replica's connections ask for: to another replica, or it answers 502."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import time
from collections.abc import Sequence
from queue import SimpleQueue
from threading import Thread

from serve.replica.sidecar import registry
from serve.replica.sidecar.slots import SLOT_BYTES, Lost, read_slot
from serve.replica.sidecar.verdict import Ended, Settings, Verdict, judge, make_answer

IDLE_S = 10.0
"""How long connections without a request are kept, seconds. HAProxy may send one over them until it
hears of the replica's end, and closes them when it does."""

CONNECT_S = 1.0
"""Longest wait for a connection to another replica, seconds."""

ANSWER_S = 3600.0
"""Longest silence of the replica that got the request; HAProxy's limit comes first, seconds."""

WAIT_S = 10.0
"""How long another replica, or the successor of a lone one, is looked for, seconds."""

LOOK_S = 0.1
LINGER_S = 2.0
"""How long an answer may take to be read, seconds."""

_READ_BYTES = 65_536


def see_idle(
    connections: Sequence[socket.socket], settings: Settings, told: SimpleQueue[Ended]
) -> None:
    """Wait for requests over connections that have none, and see them through."""
    idle = {connection.fileno(): connection for connection in connections}
    poll = select.poll()
    for descriptor in idle:
        poll.register(descriptor, select.POLLIN)
    deadline, threads = time.monotonic() + IDLE_S, list[Thread]()
    while idle and (left_s := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left_s * 1000):
            poll.unregister(descriptor)
            connection = idle.pop(descriptor)
            lost = read_slot(bytes(SLOT_BYTES), peek(connection), 0)
            if judge(lost, settings) is Verdict.CLOSE:
                close(connection)
                continue
            threads.append(Thread(target=see_through, args=(connection, lost, settings, told)))
            threads[-1].start()
    for connection in idle.values():
        close(connection)
    for thread in threads:
        thread.join()


def see_through(
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


def close(connection: socket.socket) -> None:
    """End it, whoever else has a descriptor of it: a process that user code forked, say."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def peek(connection: socket.socket) -> bytes:
    """What came over it and was not read, left there; b"" at its end."""
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
