"""Bytes in, frames out: the reading half of an `asyncio.BufferedProtocol`, without any I/O.

Small frames are cut out of one scratch buffer, many per read. A frame with buffers, or larger than
the scratch, gets memory of its own and the kernel writes straight into it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from serve.transport.frames import (
    FIRST_KIND,
    HEADER,
    HEADER_SIZE,
    LAST_KIND,
    FrameError,
    Piece,
    check_header,
)

SCRATCH_BYTES = 128 * 1024


class _LargeFrame:
    """A frame on its way into its own memory: the table of lengths, the pickle, each buffer."""

    __slots__ = ("_left", "_n_buffers", "_parts", "_size", "call_id", "kind", "target")

    def __init__(self, kind: int, n_buffers: int, call_id: int, size: int) -> None:
        self.kind = kind
        self.call_id = call_id
        self._n_buffers = n_buffers
        self._size = size
        self._left: list[int] = [size]  # lengths still to come, the next one last
        self._parts: list[bytearray] = []
        self.target: memoryview | None = None
        if n_buffers:
            self._left = [8 * n_buffers]
        self._next_part()

    def _next_part(self) -> None:
        # One part at a time: a peer that only announces much makes us allocate little.
        while self._left:
            part = bytearray(self._left.pop())
            self._parts.append(part)
            if part:
                self.target = memoryview(part)
                return
        self.target = None

    def advance(self, n_bytes: int) -> bool:
        """Notes that the target's first bytes are filled; true when the frame is complete."""
        assert self.target is not None
        if n_bytes < self.target.nbytes:
            self.target = self.target[n_bytes:]
            return False
        self.target = None
        if len(self._parts) == 1 and self._n_buffers:
            lengths = struct.unpack(f"<{self._n_buffers}Q", self._parts[0])
            check_header(self.kind, self._n_buffers, self._size + sum(lengths))
            self._left = [*reversed(lengths), self._size]
        self._next_part()
        return self.target is None

    def take(self, data: memoryview) -> int:
        """Copies from what the scratch already holds; returns how many bytes were used."""
        used = 0
        while self.target is not None and used < data.nbytes:
            n_bytes = min(self.target.nbytes, data.nbytes - used)
            self.target[:n_bytes] = data[used : used + n_bytes]
            used += n_bytes
            self.advance(n_bytes)
        return used

    def content(self) -> tuple[bytearray, list[bytearray]]:
        """The pickle and the buffers of a complete frame."""
        first = 1 if self._n_buffers else 0
        return self._parts[first], self._parts[first + 1 :]


class FrameReader:
    """Cuts a stream into frames; subclasses take them, and the news that it is no such stream."""

    def __init__(self) -> None:
        self._scratch = bytearray(SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._kept = 0  # bytes of an unfinished frame at the scratch's start
        self._large: _LargeFrame | None = None

    def frame_received(
        self, kind: int, call_id: int, data: Piece, buffers: Sequence[bytearray]
    ) -> None:
        """Takes one frame. `data` is valid until this returns, `buffers` for good."""
        raise NotImplementedError

    def stream_broken(self, error: FrameError) -> None:
        """Takes the end of the conversation: what came is no frame, and so is nothing after it."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go (`asyncio.BufferedProtocol`)."""
        if self._large is not None:
            assert self._large.target is not None
            return self._large.target
        return self._view[self._kept :] if self._kept else self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Takes note of bytes received (`asyncio.BufferedProtocol`)."""
        try:
            if self._large is not None:
                if self._large.advance(nbytes):
                    self._finish_large()
                return
            self._cut(self._kept + nbytes)
        except FrameError as error:
            self.stream_broken(error)

    def _cut(self, end: int) -> None:
        position = 0
        view = self._view
        while end - position >= HEADER_SIZE:
            kind, n_buffers, call_id, size = HEADER.unpack_from(view, position)
            if not FIRST_KIND <= kind <= LAST_KIND:
                check_header(kind, n_buffers, size)
            body = position + HEADER_SIZE
            after = body + size
            if n_buffers or after > end:
                if not n_buffers and size <= SCRATCH_BYTES - HEADER_SIZE:
                    break  # its rest will fit behind it
                check_header(kind, n_buffers, size)
                self._large = _LargeFrame(kind, n_buffers, call_id, size)
                position = body + self._large.take(view[body:end])
                if self._large.target is None:
                    self._finish_large()
                continue
            self.frame_received(kind, call_id, view[body:after], ())
            position = after
        self._kept = end - position
        if self._kept and position:
            view[: self._kept] = view[position:end]

    def _finish_large(self) -> None:
        frame = self._large
        assert frame is not None
        self._large = None
        data, buffers = frame.content()
        self.frame_received(frame.kind, frame.call_id, data, buffers)
