"""The incoming messages of one HTTP request, and the watch for a client that went away.

A handler that is quick pays for a timer only; after `WATCH_AFTER_S` a task reads ahead and cancels the
handler when the client is gone.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive

WATCH_AFTER_S = 0.05
READ_AHEAD_BYTES = 65_536


class Inbox:
    """Hands a request's messages to its handler, in order, also when the watch read them first."""

    __slots__ = (
        "_ahead", "_ahead_bytes", "_lock", "_receive", "_room", "_task", "_timer", "_watch",
        "is_disconnected",
    )  # fmt: skip

    def __init__(self, receive: Receive, task: asyncio.Task[None]) -> None:
        """`task` is cancelled when the client goes away."""
        self._receive = receive
        self._task = task
        self._ahead: deque[Message] = deque()
        self._ahead_bytes = 0
        self._lock: asyncio.Lock | None = None  # made with the watch: most requests need none
        self._room: asyncio.Event | None = None
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start_watch)
        self.is_disconnected = False

    async def receive(self) -> Message:
        """The next message: ASGI's `receive`."""
        if self._lock is None:
            return await self._receive()
        async with self._lock:
            if not self._ahead:
                return await self._receive()
            message = self._ahead.popleft()
            self._ahead_bytes -= len(message.get("body", b""))
            if self._room is not None:
                self._room.set()
            return message

    def close(self) -> None:
        """End the watch."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _start_watch(self) -> None:
        self._lock, self._room = asyncio.Lock(), asyncio.Event()
        self._watch = asyncio.get_running_loop().create_task(self._read_ahead(self._lock, self._room))

    async def _read_ahead(self, lock: asyncio.Lock, room: asyncio.Event) -> None:
        while True:
            async with lock:
                message = await self._receive()
                self._ahead.append(message)
                self._ahead_bytes += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                self.is_disconnected = True
                self._task.cancel()
                return
            while self._ahead_bytes > READ_AHEAD_BYTES:
                room.clear()
                await room.wait()
