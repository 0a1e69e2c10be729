"""The pipe on which HAProxy logs: read line by line on the event loop.

Not a socket: at most `net.unix.max_dgram_qlen`, often 10, datagrams wait on a Unix socket, then
lines are lost. HAProxy never waits for the pipe either; what does not fit it counts (DroppedLogs).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable

PIPE_BYTES = 1024 * 1024
"""Some thousands of lines; Linux allows it to every user."""

_MAX_REST_BYTES = 65_536

logger = logging.getLogger("ray.serve")


class LinePipe:
    """A pipe whose lines are handed over one by one.

    Args:
        take: called with each line, without its newline, on the loop that called `start`.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._transport: asyncio.BaseTransport | None = None
        self._reader: _LineReader | None = None

    async def start(self) -> int:
        """Open it; the descriptor to write to, which the caller hands to a process and closes."""
        self.stop()
        read_end, write_end = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # more than this user may have: it stays smaller
                fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._reader = _LineReader(self._take)
        reader = self._reader
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: reader, os.fdopen(read_end, "rb", 0)
        )
        return write_end

    async def drain(self, timeout_s: float) -> None:
        """Wait until all writers are gone and all was read."""
        if self._reader is not None:
            with contextlib.suppress(asyncio.TimeoutError):  # a child of HAProxy's may hold it
                await asyncio.wait_for(asyncio.shield(self._reader.ended), timeout_s)

    def stop(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


class _LineReader(asyncio.Protocol):
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_REST_BYTES:
            self._rest = b""  # no line of ours is that long
        for line in lines:
            try:
                self._take(line)
            except Exception:  # uvloop would close the pipe, and no line would come any more
                logger.exception("A line of HAProxy's log could not be recorded")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
