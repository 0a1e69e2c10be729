"""A relay between a client and a server: counts what passes, can hold it, can add to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


class Way:
    """One direction.

    Attributes:
        passed: bytes that the receiver's side took.
        is_open: what comes is passed on only while it is set; else it is not even read.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.is_open = asyncio.Event()
        self.is_open.set()
        self._writer: asyncio.StreamWriter | None = None

    def cut(self) -> None:
        """End the connection to the receiver, without a word."""
        assert self._writer is not None
        self._writer.transport.abort()

    def add(self, data: bytes) -> None:
        """As if the sender had sent it."""
        assert self._writer is not None
        self._writer.write(data)

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the sender ends."""
        self._writer = writer
        with contextlib.suppress(OSError):
            while True:
                await self.is_open.wait()
                if not (data := await reader.read(65_536)):
                    break
                await self.is_open.wait()  # it may be held since
                writer.write(data)
                await writer.drain()
                self.passed += len(data)
        writer.close()


class Relay:
    """For one connection to a port of this machine.

    Attributes:
        port: where it listens.
        up: from the client to the server.
        down: from the server to the client.
    """

    def __init__(self) -> None:
        self.port = 0
        self.up, self.down = Way(), Way()
        self._server: asyncio.Server | None = None

    def cut(self) -> None:
        """End both connections; client and server live on."""
        self.up.cut()
        self.down.cut()

    def refuse(self) -> None:
        """Take no more connections."""
        assert self._server is not None
        self._server.close()

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[Relay]:
        """While the block runs; whoever is still connected then is cut off."""
        tasks: list[asyncio.Task[None]] = []

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to, back = await asyncio.open_connection("127.0.0.1", port)
            tasks.append(asyncio.create_task(self.up.copy(reader, back)))
            tasks.append(asyncio.create_task(self.down.copy(to, writer)))

        self._server = server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for way in (self.up, self.down):
                way.is_open.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until_still(count: Callable[[], int]) -> int:
    """Wait until a number of this loop's doing stays the same; it.

    Rounds of the loop in which nothing comes of itself, not a time in which nothing came.
    """
    last, rounds = count(), 0
    while rounds < 100:
        await asyncio.sleep(0.001)
        last, rounds = (last, rounds + 1) if count() == last else (count(), 0)
    return last
