"""What both ends of a connection share: a `FrameReader` with the transport to write to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from serve.transport.frames import Encoder, FrameError, Piece
from serve.transport.reader import FrameReader

# Enough that small answers never wait, little enough to notice a peer that stopped reading.
HIGH_WATER_BYTES = 1024 * 1024
JOIN_BYTES = 16 * 1024
_SOCKET_BUFFER_BYTES = 512 * 1024


class FrameStream(FrameReader, asyncio.BufferedProtocol):
    """One end of an authenticated connection; bound to the loop that runs it.

    Args:
        loop: the loop.
        before_write: called before anything is sent.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, before_write: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.loop = loop
        self._before_write = before_write
        self.encoder = Encoder()
        self.gone: asyncio.Future[None] = loop.create_future()  # done once the socket is closed
        self.writing_paused = False
        self._transport: asyncio.Transport
        self._unsent: list[Piece] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def write(self, pieces: list[Piece], *, is_alone: bool = False) -> None:
        """Sends one frame, together with all others of this iteration of the loop.

        uvloop makes one system call of each write, and each wakes the peer; both cost more than the
        frame. Large pieces are not copied.

        Args:
            pieces: the frame.
            is_alone: no other frame is to be expected now, so this one goes at once.
        """
        if not self._unsent:
            if is_alone:
                self._unsent = pieces
                self._flush()
                return
            self.loop.call_soon(self._flush)
        self._unsent += pieces

    def _flush(self) -> None:
        pieces, self._unsent = self._unsent, []
        if self._transport.is_closing():
            return
        if self._before_write is not None:
            self._before_write()
        if len(pieces) == 1:
            self._transport.write(pieces[0])
            return
        small: list[Piece] = []
        for piece in pieces:
            if len(piece) < JOIN_BYTES:
                small.append(piece)
                continue
            if small:
                self._transport.write(b"".join(small))
                small = []
            self._transport.write(piece)
        if small:
            self._transport.write(b"".join(small))

    def pause_writing(self) -> None:
        """Takes note that the peer reads too slowly (asyncio)."""
        self.writing_paused = True

    def resume_writing(self) -> None:
        """Takes note that it has caught up (asyncio)."""
        self.writing_paused = False

    def stream_broken(self, error: FrameError) -> None:
        """Gives the connection up."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Takes note of the end (asyncio)."""
        if not self.gone.done():
            self.gone.set_result(None)

    def finish(self) -> None:
        """Closes after what is written has been sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Closes now."""
        if not self.gone.done():  # asyncio's transport is no more to be touched then
            self._transport.abort()


def tune_socket(sock: socket.socket) -> None:
    """Prepares a call socket: no delay for small frames, roomy buffers for large ones."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # only a loss of speed
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
