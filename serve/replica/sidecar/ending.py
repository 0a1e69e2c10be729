"""What a sidecar does once its replica is dead: end each connection as fits what it was at."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Thread

from serve.replica.sidecar import registry
from serve.replica.sidecar.exit import read_exit
from serve.replica.sidecar.handover import close, peek, see_idle, see_through
from serve.replica.sidecar.slots import SLOT_BYTES, Stage, read_slot
from serve.replica.sidecar.verdict import Ended, Settings, Verdict, describe_end, judge

TELL_S = 0.1
_ACKED_OFFSET = 120  # of tcpi_bytes_acked in Linux's struct tcp_info


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
    threads, idle = [], list(accepted)
    for number, descriptor in connections.items():
        slot = bytes(memory[number * SLOT_BYTES : (number + 1) * SLOT_BYTES])
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        lost = read_slot(slot, peek(connection), _count_sent(connection))
        if judge(lost, settings) is not Verdict.CLOSE:
            threads.append(Thread(target=see_through, args=(connection, lost, settings, told)))
        elif lost.stage is Stage.IDLE:
            idle.append(connection)
        else:
            close(connection)
            told.put(Ended(lost, Verdict.CLOSE))
    threads.append(Thread(target=see_idle, args=(idle, settings, told)))
    for thread in threads:
        thread.start()
    _record(replica, died_s, told, threads, settings)


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
            ended = told.get(timeout=TELL_S)
        except Empty:
            continue
        report.tell(describe_end(ended, died_s), ended.lost)
    report.close()


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
