"""A replica's call socket: listens, admits who holds the secret; served.py does the rest."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from observability.instrument.supervision import keep_running, watch_task
from serve.strangers import Strangers
from serve.transport.auth import AuthError
from serve.transport.failures import Origin, failure_frame, format_whole
from serve.transport.handshake import admit_client
from serve.transport.served import Handler, ServedConnection, Unrun
from serve.transport.stream import tune_socket

DEFAULT_MAX_RUNNING = 1000
ACCEPT = "acceptance of call connections"
ADMIT = "admission of a call connection"
_BACKLOG = 1024
_ACCEPT_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a `CallServer` listens.

    Attributes:
        port: TCP port.
        socket_name: abstract Unix socket without its leading NUL; "" where there is none.
    """

    port: int
    socket_name: str


class CallServer:
    """Serves calls; belongs to the loop on which `start` runs.

    Args:
        handler: `await handler(message)` gives the result. Each call is a task of its own. What it
            returns must not change until it was sent: large arrays are not copied.
        secret: the instance's; only processes that hold it are admitted.
        replica_tag: whose socket it is; clients that look for another one go away. "": anybody's.
        max_running: how many calls of one connection run at once; more wait.
        logger: for strangers and broken connections; default `ray.serve`.
        before_write: called before anything is sent.
        describe: gives the traceback that the caller gets of what a call raised.
        unrun: hears of the message of a call that was cancelled before the handler had it.
    """

    def __init__(
        self,
        handler: Handler,
        secret: bytes,
        *,
        replica_tag: str = "",
        max_running: int = DEFAULT_MAX_RUNNING,
        logger: logging.Logger | None = None,
        before_write: Callable[[], None] | None = None,
        describe: Callable[[BaseException], str] = format_whole,
        unrun: Unrun = lambda message: None,
    ) -> None:
        if not secret:
            raise ValueError("CallServer needs a secret: an empty one would admit everybody.")
        self._handler = handler
        self._secret = secret
        self._replica_tag = replica_tag
        self._max_running = max_running
        self._before_write = before_write
        self._unrun = unrun
        origin = Origin(replica_tag, os.getpid())
        self._encode_failure = functools.partial(failure_frame, origin=origin, describe=describe)
        self._logger = logger or logging.getLogger("ray.serve")
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()  # accept loops and handshakes
        self._connections: set[ServedConnection] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._strangers = Strangers("A call connection", self._logger)

    @property
    def in_flight(self) -> int:
        """Calls that run now."""
        return sum(len(connection.running) for connection in self._connections)

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self._draining

    async def start(self, host: str) -> Bound:
        """Listens on a free TCP port of `host` and, on Linux, on an abstract Unix socket.

        Args:
            host: address or name of one of this machine's interfaces.

        Returns:
            Where it listens.

        Raises:
            OSError: `host` is not an address of this machine.
        """
        port = await self.listen(host)
        name = ""
        if sys.platform == "linux":
            name = f"tagtrail-{secrets.token_hex(16)}"
            self._listen(socket.AF_UNIX, f"\0{name}")
        return Bound(port, name)

    async def listen(self, host: str) -> int:
        """Listens on one more address; the port. Raises as `start` does."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        port: int = self._listen(family, address).getsockname()[1]
        return port

    def _listen(self, family: int, address: object) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        self._listeners.append(listener)
        listener.setblocking(False)
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(_BACKLOG)
        accept = functools.partial(self._accept, asyncio.get_running_loop(), listener)
        self._spawn(keep_running(ACCEPT, accept))
        return listener

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        watch_task(ADMIT, task)

    async def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, say: those in use may come free
                self._logger.warning("A call socket cannot accept now: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._spawn(self._admit(loop, sock, address))

    async def _admit(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, address: object
    ) -> None:
        try:
            tune_socket(sock)
            await admit_client(sock, self._secret, self._replica_tag)
            _, connection = await loop.connect_accepted_socket(self._new_connection, sock)
        except AuthError as error:
            self._strangers.note(_peer_name(sock, address), error)
            sock.close()
        except OSError as error:
            sock.close()
            self._logger.debug("A call connection ended before it began: %s", error)
        except BaseException:
            sock.close()
            raise
        else:
            if self._draining:
                connection.drain()

    def _new_connection(self) -> ServedConnection:
        connection = ServedConnection(
            asyncio.get_running_loop(),
            self._handler,
            self._max_running,
            self._gone,
            self._logger,
            self._before_write,
            self._encode_failure,
            self._unrun,
        )
        self._connections.add(connection)
        return connection

    def _gone(self, connection: ServedConnection) -> None:
        if connection.gone.done():
            self._connections.discard(connection)
        if self._draining and not self.in_flight:
            self._idle.set()

    def drain(self) -> None:
        """Sends clients elsewhere; later calls are rejected unexecuted, running ones finish."""
        self._draining = True
        for connection in list(self._connections):
            connection.drain()
        if not self.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Waits, after `drain`, until the last running call is done."""
        await self._idle.wait()

    async def close(self, timeout_s: float = 5.0) -> None:
        """Stops listening, cancels what runs, sends what is written, closes every connection.

        Args:
            timeout_s: how long handlers may take to end after their cancellation, and clients to
                read what was written, seconds.
        """
        self._draining = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        connections = list(self._connections)
        running = [task for connection in connections for task in connection.running.values()]
        for connection in connections:
            connection.drain()
            connection.cancel_all()
        if running:  # their clients hear of it: else they would take this for a sudden end
            await asyncio.wait(running, timeout=timeout_s)
        for connection in connections:
            connection.finish()
        gone = [connection.gone for connection in connections]
        if gone:
            await asyncio.wait(gone, timeout=timeout_s)
        for connection in connections:
            connection.abort()
        if gone:
            await asyncio.wait(gone, timeout=timeout_s)
        stuck = sum(not task.done() for task in running)
        if stuck:
            self._logger.warning("%d calls ignored their cancellation; left behind.", stuck)
        self._idle.set()


def _peer_name(sock: socket.socket, address: object) -> str:
    if isinstance(address, tuple):
        return str(address[0])  # without the port: the next attempt has another one
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            size = struct.calcsize("3i")
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            pid, uid, _ = struct.unpack("3i", credentials)
            return f"local process {pid} (uid {uid})"
    return "a local process"
