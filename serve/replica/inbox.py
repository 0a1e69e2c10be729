"""The incoming messages of one HTTP request, and the watch for clients that went away.

A handler that is quick pays for an entry in a list only. One that takes longer than a tick gets a
task that reads ahead and cancels it when its client is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive

TICK_S = 0.05
READ_AHEAD_BYTES = 65_536


class DisconnectWatch:
    """Starts the watch of requests that are still there after a tick or two. One for each loop."""

    def __init__(self) -> None:
        # Sets, left at once at a request's end: kept until the next tick, requests would survive
        # the youngest generation of the garbage collector, which costs more than all else here.
        self._young: set[Inbox] = set()
        self._old: set[Inbox] = set()
        self._is_ticking = False

    def add(self, inbox: Inbox) -> None:
        """A request begins."""
        self._young.add(inbox)
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def discard(self, inbox: Inbox) -> None:
        """A request ends."""
        self._young.discard(inbox)
        self._old.discard(inbox)

    def _tick(self) -> None:
        again = {inbox for inbox in self._old if not inbox.start_watch()}
        self._old, self._young = again | self._young, set()
        self._is_ticking = bool(self._old)
        if self._is_ticking:
            asyncio.get_running_loop().call_later(TICK_S, self._tick)


class Inbox:
    """Hands a request's messages to its handler, in order, also when the watch read them first.

    Args:
        receive: ASGI's, of the server.
        task: cancelled when the client goes away.
        watch: of this event loop.
    """

    __slots__ = (
        "_ahead",
        "_ahead_bytes",
        "_arrived",
        "_reader",
        "_readers",
        "_receive",
        "_room",
        "_task",
        "_watch",
        "bytes_in",
        "is_disconnected",
    )

    def __init__(
        self, receive: Receive, task: asyncio.Task[None] | None, watch: DisconnectWatch
    ) -> None:
        self._receive = receive
        self._task = task
        self._watch = watch
        self._readers = 0
        self._arrived: asyncio.Event | None = None  # made with the watch: most requests need none
        self._reader: asyncio.Task[None] | None = None
        self.is_disconnected = False
        self.bytes_in = 0
        watch.add(self)

    async def receive(self) -> Message:
        """The next message: ASGI's `receive`."""
        if self._arrived is None:
            self._readers += 1
            try:
                return self._count(await self._receive())
            finally:
                self._readers -= 1
        while not self._ahead:
            if self.is_disconnected:
                return {"type": "http.disconnect"}
            if self._reader is None:
                return self._count(await self._receive())
            self._arrived.clear()
            await self._arrived.wait()
        message = self._ahead.popleft()
        self._ahead_bytes -= len(message.get("body", b""))
        self._room.set()
        return message

    def start_watch(self) -> bool:
        """Read ahead from now on. False while the handler itself waits for a message."""
        if self._readers:
            return False
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read_ahead(self._arrived))
        return True

    def close(self) -> None:
        """The answer is out: from now on a client that goes away cancels nothing."""
        if self._task is None:
            return
        self._task = None
        self._watch.discard(self)
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if self._arrived is not None:
            self._arrived.set()

    def _count(self, message: Message) -> Message:
        if "body" in message:
            self.bytes_in += len(message["body"])
        elif self._task is not None:  # after the answer every request is "disconnected" to ASGI
            self.is_disconnected = True
        return message

    async def _read_ahead(self, arrived: asyncio.Event) -> None:
        # The only one who reads from the server now. No lock: it waits here while the handler takes
        # what has arrived.
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.is_disconnected = True
                arrived.set()
                if self._task is not None:
                    self._task.cancel()
                return
            self._ahead.append(self._count(message))
            self._ahead_bytes += len(message.get("body", b""))
            arrived.set()
            while self._ahead_bytes > READ_AHEAD_BYTES:
                self._room.clear()
                await self._room.wait()
