"""The replica's side of its sidecar: starts it, hands it connections, notes what they are at."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import mmap
import os
import random
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable

from observability.instrument.supervision import keep_running
from serve.records import ReplicaAddress
from serve.replica.sidecar import program, registry
from serve.replica.sidecar.slots import HEAD, KEPT_BYTES, SLOT_BYTES, SLOTS, Stage
from serve.replica.sidecar.verdict import Settings

SIDECAR = "sidecar of the replica"
START_S = 30.0
"""Longest time for it to start, seconds."""

UP_S = 5.0
"""How long a replica that starts waits for its sidecar, seconds: then it serves without one."""

RETRY_S = 0.01
"""Pause when its socket is full, seconds."""

MOST_OTHERS = 100
"""So many other replicas it is told of: all it knows is one message of `program.MESSAGE_BYTES`."""


def is_supported() -> bool:
    """Whether this system can have sidecars: Linux from 5.3 on, and Python 3.9."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return hasattr(os, "memfd_create")


_pack_head = HEAD.pack_into


class Line:
    """One connection, as its sidecar sees it. Its methods are on the request path."""

    __slots__ = (
        "_before",
        "_began_s",
        "_first",
        "_kept",
        "_memory",
        "_offset",
        "_written",
        "descriptor",
        "slot",
    )

    def __init__(self, memory: mmap.mmap, slot: int, descriptor: int) -> None:
        self._memory = memory
        self._offset = slot * SLOT_BYTES
        self._first = self._offset + HEAD.size
        self._kept = self._before = self._written = 0
        self._began_s = 0.0
        self.slot = slot
        self.descriptor = descriptor
        memory[self._offset] = Stage.IDLE

    def begin(self, received: bytes) -> None:
        """A request's head was read; its first bytes are those."""
        kept = received[:KEPT_BYTES]
        self._kept = len(kept)
        self._began_s = time.monotonic()
        self._memory[self._first : self._first + self._kept] = kept
        self.send_before(0)

    def send_before(self, size: int) -> None:
        """So many bytes that are none of the answer are handed to the kernel."""
        self._written = self._before = self._written + size
        _pack_head(
            *(self._memory, self._offset, Stage.RUNNING),
            *(self._kept, self._began_s, self._before, self._written),
        )

    def send(self, size: int) -> None:
        """So many bytes of the answer are handed to the kernel, and they are not its last."""
        self._written += size

    def end(self, size: int) -> None:
        """Its last ones are. Whether the kernel has them is seen when we are dead."""
        self._written += size
        _pack_head(
            *(self._memory, self._offset, Stage.WRITTEN),
            *(self._kept, self._began_s, self._before, self._written),
        )


def choose_others(addresses: Iterable[ReplicaAddress], own: str) -> list[tuple[str, int]]:
    """Where a sidecar may send a request: (host, HTTP port) of others than `own`, by chance."""
    others = [(each.host, each.http_port) for each in addresses if each.replica_tag != own]
    # The shared generator is the user's to seed.
    return others if len(others) <= MOST_OTHERS else random.Random().sample(others, MOST_OTHERS)


class SidecarClient:
    """One for each replica; belongs to one event loop.

    Args:
        settings: what the sidecar must know.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = settings.registry, settings.replica
        self._memory_fd = os.memfd_create("tagtrail-sidecar")
        os.ftruncate(self._memory_fd, SLOTS * SLOT_BYTES)
        self._memory = mmap.mmap(self._memory_fd, 0)
        self._free = deque(range(SLOTS))
        self._lines: dict[int, Line] = {}
        self._listeners: list[int] = []
        self._control: socket.socket | None = None
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_up = asyncio.Event()
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None

    async def wait_until_up(self) -> None:
        """Until a sidecar is there, or `UP_S` are over: what came before would end unanswered."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._is_up.wait(), UP_S)

    def cover_listener(self, listener: socket.socket) -> None:
        """Have what was not accepted yet outlive this process; say where it is, at the first."""
        if not self._listeners:
            with contextlib.suppress(OSError):  # a full disk: then only the controller knows
                registry.enter(*self._place, *listener.getsockname()[:2])
        self._listeners.append(listener.fileno())
        self._tell_listener(listener.fileno())

    def cover(self, transport: asyncio.BaseTransport) -> Line | None:
        """Have a connection outlive this process; None when there is no room for it."""
        connection = transport.get_extra_info("socket")
        if connection is None or not self._free:
            return None
        line = Line(self._memory, self._free.popleft(), connection.fileno())
        self._lines[line.slot] = line
        self._tell(program.CONNECTION.pack(b"+", line.slot), line.descriptor)
        return line

    def uncover(self, line: Line) -> None:
        """A connection is closed."""
        if self._lines.pop(line.slot, None) is None:
            return
        opening = (program.CONNECTION.pack(b"+", line.slot), line.descriptor)
        if opening in self._unsent:
            self._unsent.remove(opening)  # its descriptor may soon be another connection's
        else:
            self._tell(program.CONNECTION.pack(b"-", line.slot))
        self._free.append(line.slot)

    def configure(self, retries: int) -> None:
        """Take another number of retries."""
        self._settings = self._settings._replace(retries=retries)
        self._tell(self._describe())

    def see_others(self, addresses: Iterable[ReplicaAddress]) -> None:
        """Take where the replicas of the backend are, this one among them."""
        others = choose_others(addresses, self._settings.replica)
        self._settings = self._settings._replace(others=others)
        self._tell(self._describe())

    async def keep(self) -> None:
        """Have a sidecar, as lasting work.

        Raises:
            OSError: it can't be started.
            RuntimeError: it ended; says why, where that is known.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                await asyncio.to_thread(self._start, theirs.fileno())
            self._control = ours
            self._unsent.clear()
            self._tell(self._describe())
            for listener in self._listeners:
                self._tell_listener(listener)
            for line in self._lines.values():
                self._tell(program.CONNECTION.pack(b"+", line.slot), line.descriptor)
            self._is_up.set()
            said = await self._until_gone(ours)
        finally:
            self._is_up.clear()
            self._control = None
            if self._is_stopped:
                _quit(ours)
            ours.close()
        raise RuntimeError(f"it ended. {said.decode(errors='replace')}".rstrip())

    def start(self) -> None:
        """Have a sidecar from now on, and another one when it ends."""
        self._task = self._loop.create_task(keep_running(SIDECAR, self.keep))

    def stop(self) -> None:
        """Let the sidecar go: the replica ends in order."""
        registry.leave(*self._place, os.getpid())
        self._is_stopped = True
        if self._control is not None:
            _quit(self._control)
        if self._task is not None:
            self._task.cancel()

    def _describe(self) -> bytes:
        return json.dumps({**self._settings._asdict(), "path": sys.path}).encode()

    def _start(self, control_fd: int) -> None:
        command = [sys.executable, "-I", "-S", program.__file__]
        descriptors = (control_fd, self._memory_fd)
        subprocess.run(
            [*command, *map(str, descriptors), str(os.getpid())],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_S,
            check=True,
        )

    async def _until_gone(self, control: socket.socket) -> bytes:
        """What it said last."""
        said = b""
        while data := await self._loop.sock_recv(control, program.MESSAGE_BYTES):
            said = data.removeprefix(program.TROUBLE)
        return said

    def _tell_listener(self, descriptor: int) -> None:
        self._tell(program.CONNECTION.pack(program.LISTENER, 0), descriptor)

    def _tell(self, message: bytes, descriptor: int = -1) -> None:
        if self._control is None:
            return  # `keep` tells all anew
        self._unsent.append((message, descriptor))
        if len(self._unsent) == 1:
            self._send()

    def _send(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            while self._unsent:
                message, descriptor = self._unsent[0]
                socket.send_fds(control, [message], [descriptor] if descriptor >= 0 else [])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.call_later(RETRY_S, self._send)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:  # of descriptors that are on their way
                self._loop.call_later(RETRY_S, self._send)
            else:  # it is gone, which `keep` hears
                self._unsent.clear()


def _quit(control: socket.socket) -> None:
    with contextlib.suppress(OSError):
        control.send(program.QUIT)
