"""The program of a sidecar: waits beside its replica. Started as a script.

It loads what it needs to wait, and the rest when the replica is dead: 10 MB, 10 ms.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import sys

CONNECTION = struct.Struct("<cH")
"""A message of the replica: `+` or `-` and a slot, or LISTENER; descriptors come along."""

LISTENER = b"l"
"""A socket on which the replica listens: connections that it has not accepted end with it, too."""

SETTINGS = b"{"
"""First byte of a message that is a JSON object: `verdict.Settings`, and `path` to import from."""

QUIT = b"q"
"""The replica takes its leave."""

TROUBLE = b"!"
"""First byte of what the sidecar says before it ends by an error; the traceback follows."""

DEATH_S = 5.0
"""Longest wait for the replica's end after it has let go of its socket, seconds."""

MESSAGE_BYTES = 65_536


class Sidecar:
    """The process.

    Args:
        control: to the replica.
        memory: the slots.
        replica: descriptor that is readable once the replica has ended.
    """

    def __init__(self, control: socket.socket, memory: mmap.mmap, replica: int) -> None:
        self._control = control
        self._memory = memory
        self._replica = replica
        self._settings = SETTINGS + b"}"
        self._connections: dict[int, int] = {}
        self._listeners: list[int] = []

    def run(self) -> None:
        """Return when nothing is left to do."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._replica, select.POLLIN)
        while self._control.fileno() in (ready := {fd for fd, _ in poll.poll()}):
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 1)
            if message == QUIT:
                return
            if not message:
                poll.unregister(self._control)
                ready = {fd for fd, _ in poll.poll(DEATH_S * 1000)}
                break
            self._take(message, descriptors)
        if self._replica in ready:
            self._end()

    def _take(self, message: bytes, descriptors: list[int]) -> None:
        if message.startswith(SETTINGS):
            self._settings = message
            return
        sign, slot = CONNECTION.unpack(message)
        if sign == LISTENER:
            self._listeners += descriptors
            return
        self._forget(slot)
        if sign == b"+" and descriptors:
            self._connections[slot] = descriptors[0]

    def _forget(self, slot: int) -> None:
        if (descriptor := self._connections.pop(slot, -1)) >= 0:
            os.close(descriptor)

    def _end(self) -> None:
        accepted = [each for descriptor in self._listeners for each in _accept_all(descriptor)]
        import json

        settings = json.loads(self._settings)
        sys.path[:] = settings.pop("path")
        from serve.replica.sidecar.ending import end_all
        from serve.replica.sidecar.verdict import Settings

        end_all(
            self._replica,
            accepted,
            self._connections,
            memoryview(self._memory),
            Settings(**settings),
        )


def _accept_all(descriptor: int) -> list[socket.socket]:
    """What the replica had not accepted; from then on connections are refused."""
    accepted = []
    with socket.socket(fileno=descriptor) as listener:
        listener.setblocking(False)
        try:
            while True:
                accepted.append(listener.accept()[0])
        except OSError:
            return accepted


def main(args: list[str]) -> None:
    """Leave the parent's family, then watch over a replica.

    Args:
        args: descriptor of the control socket, of the memory, process id of the replica.
    """
    control_fd, memory_fd, pid = map(int, args)
    replica = os.pidfd_open(pid)
    if os.fork():  # nobody's child: Ray ends those of a worker
        os._exit(0)
    os.setsid()
    control = socket.socket(fileno=control_fd)
    try:
        Sidecar(control, mmap.mmap(memory_fd, 0), replica).run()
    except BaseException:
        import traceback

        control.send(TROUBLE + traceback.format_exc()[-2000:].encode())
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
