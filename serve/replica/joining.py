"""One system call and one packet for an answer: what is written in one iteration leaves together.

uvicorn writes an answer's head and its body separately, and uvloop makes a system call of each.
Measured with an 11-byte body behind HAProxy at 32 connections: joined, 13 to 30% more requests/s,
and HAProxy spends a quarter less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

JOIN_BYTES = 65_536
"""Larger pieces are not copied for it, and more is not held back: who writes without a pause must
feel when the peer does not read."""


class JoiningTransport:
    """A transport whose writes wait for the loop's iteration to end; else the inner one's.

    Args:
        transport: the inner one.
        loop: of the connection.
        before_write: called with the number of bytes before anything is sent.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        before_write: Callable[[int], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._before_write = before_write
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._closes = False

    def write(self, data: bytes) -> None:
        """Send, with what else is written meanwhile."""
        if not data:
            return
        if len(data) >= JOIN_BYTES:
            self._flush()
            self._before_write(len(data))
            self._transport.write(data)
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= JOIN_BYTES:
            self._flush()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for the iteration's end."""
        return bool(self._unsent)

    def is_closing(self) -> bool:
        """Whether it is closed or being closed."""
        return self._closes or self._transport.is_closing()

    def close(self) -> None:
        """Close once all is sent: not sooner, as an application may answer and raise on."""
        if self._unsent:
            self._closes = True
        else:
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        pieces, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if pieces and not self._transport.is_closing():
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._before_write(len(data))
            self._transport.write(data)
        if self._closes:
            self._transport.close()
