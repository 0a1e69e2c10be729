"""The server's end of one connection: calls come in, tasks run, answers go out."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from serve.transport.failures import failure_frame
from serve.transport.frames import (
    Encoder,
    FrameError,
    FrameKind,
    MessageError,
    Piece,
    control_frame,
    decode,
)
from serve.transport.stream import FrameStream

EncodeFailure: TypeAlias = Callable[[Encoder, int, BaseException], list[Piece]]
Handler: TypeAlias = Callable[[Any], Awaitable[object]]
Unrun: TypeAlias = Callable[[Any], None]

# Bytes of calls that wait their turn; beyond it the socket is not read, and the client feels it.
WAITING_BYTES = 16 * 1024 * 1024


class _WaitingCall(NamedTuple):
    call_id: int
    data: Piece
    buffers: Sequence[bytearray]
    n_bytes: int


class ServedConnection(FrameStream):
    """Runs one client's calls.

    At most `max_running` at once, and no new one while the client does not read its answers; the
    others wait undecoded, up to `WAITING_BYTES`, then the socket is left unread.

    Args:
        loop: the loop that runs it.
        handler: what a call does.
        max_running: how many calls of this connection run at once.
        on_idle: called when nothing runs any more and the connection is draining or lost.
        logger: hears of a client that breaks the protocol.
        before_write: called before anything is sent.
        encode_failure: what a call raised, as a frame.
        unrun: hears of the message of a call that its client cancelled, or left, before the handler
            had it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Handler,
        max_running: int,
        on_idle: Callable[[ServedConnection], None],
        logger: logging.Logger,
        before_write: Callable[[], None] | None = None,
        encode_failure: EncodeFailure = failure_frame,
        unrun: Unrun = lambda message: None,
    ) -> None:
        super().__init__(loop, before_write)
        self._handler = handler
        self._encode_failure = encode_failure
        self._unrun = unrun
        self._max_running = max_running
        self._on_idle = on_idle
        self._logger = logger
        self._draining = False
        self.running: dict[int, asyncio.Task[None]] = {}
        self._cancelled: set[int] = set()
        self._waiting: deque[_WaitingCall] = deque()
        self._waiting_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()

    def frame_received(
        self, kind: int, call_id: int, data: Piece, buffers: Sequence[bytearray]
    ) -> None:
        """Starts, or cancels, a call."""
        if kind == FrameKind.CALL:
            if self._draining:
                self.write([control_frame(FrameKind.REJECT, call_id)])
            elif self.writing_paused or len(self.running) >= self._max_running:
                self._hold(call_id, data, buffers)
            else:
                self._start(call_id, data, buffers)
        elif kind == FrameKind.CANCEL:
            self._cancel(call_id)
        else:
            raise FrameError(f"A client does not send frames of kind {kind}.")

    def _start(self, call_id: int, data: Piece, buffers: Sequence[bytearray]) -> None:
        try:
            message = decode(data, buffers)
        except Exception as error:  # noqa: BLE001 - unpickling runs foreign code; its caller gets to know
            refusal = MessageError(
                f"The call's message cannot be unpickled here: {type(error).__name__}: {error}"
            )
            refusal.__cause__ = error
            self.write(self._encode_failure(self.encoder, call_id, refusal))
            return
        self.running[call_id] = self.loop.create_task(self._answer(call_id, message))

    async def _answer(self, call_id: int, message: object) -> None:
        try:
            if not await self._may_begin(call_id):
                self._unrun(message)
                return
            try:
                result = await self._handler(message)
                del message
                if self.writing_paused:  # encoded, it would only wait in the transport's buffer
                    await self._writable.wait()
                pieces = self.encoder.frame(FrameKind.RESULT, call_id, result)
            except GeneratorExit:  # the loop has ended
                raise
            # Task boundary: whatever the user's code raises, sys.exit() included, is the caller's.
            except BaseException as error:  # noqa: BLE001
                if call_id in self._cancelled:
                    return
                pieces = self._encode_failure(self.encoder, call_id, error)
            if call_id not in self._cancelled and not self.gone.done():
                self.write(pieces, is_alone=len(self.running) == 1)
        finally:
            self._finish(call_id)

    async def _may_begin(self, call_id: int) -> bool:
        """Whether a call is to run still, now or once its client reads its answers."""
        if self.writing_paused and call_id not in self._cancelled:
            try:
                await self._writable.wait()
            except asyncio.CancelledError:
                if call_id not in self._cancelled:
                    raise
        return call_id not in self._cancelled

    def _finish(self, call_id: int) -> None:
        self.running.pop(call_id, None)
        if call_id in self._cancelled:
            self._cancelled.discard(call_id)
            self._tell_over(call_id)
        if self._waiting:
            self._start_waiting()
        if not self.running and (self._draining or self.gone.done()):
            self._on_idle(self)

    def _cancel(self, call_id: int) -> None:
        task = self.running.get(call_id)
        if task is None:
            for waiting in self._waiting:
                if waiting.call_id == call_id:
                    self._waiting.remove(waiting)
                    self._waiting_bytes -= waiting.n_bytes
                    self._choose_reading()
                    self._forget(waiting)
                    self._tell_over(call_id)
                    break
            return
        self._cancelled.add(call_id)
        # One that has not begun sees it in its first step: cancelled before, it could tell nobody.
        if inspect.getcoroutinestate(task.get_coro()) != inspect.CORO_CREATED:  # type: ignore[arg-type]
            task.cancel()

    def _tell_over(self, call_id: int) -> None:
        if not self.gone.done():
            self.write([control_frame(FrameKind.CANCELLED, call_id)])

    def _forget(self, call: _WaitingCall) -> None:
        """A call that waited is not run."""
        try:
            message = decode(call.data, call.buffers)
        except Exception as error:  # noqa: BLE001 - unpickling runs foreign code; nobody asks any more
            self._logger.debug("A call that was cancelled cannot be unpickled: %r", error)
            return
        self._unrun(message)

    def cancel_all(self) -> None:
        """Cancels what runs and forgets what waits; no answers are sent."""
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            self._forget(call)
        for call_id in list(self.running):
            if call_id not in self._cancelled:
                self._cancel(call_id)

    def drain(self) -> None:
        """Asks the client to go elsewhere; calls that run finish, those that wait are sent back."""
        if self._draining:
            return
        self._draining = True
        self.write([control_frame(FrameKind.GOAWAY)])
        while self._waiting:
            call_id = self._waiting.popleft().call_id
            self.write([control_frame(FrameKind.REJECT, call_id)])
        self._waiting_bytes = 0
        self._choose_reading()
        if not self.running:
            self._on_idle(self)

    def _hold(self, call_id: int, data: Piece, buffers: Sequence[bytearray]) -> None:
        n_bytes = len(data) + sum(map(len, buffers))
        self._waiting.append(_WaitingCall(call_id, bytes(data), buffers, n_bytes))
        self._waiting_bytes += n_bytes
        self._choose_reading()

    def _start_waiting(self) -> None:
        while self._waiting and not self.writing_paused and len(self.running) < self._max_running:
            call_id, data, buffers, n_bytes = self._waiting.popleft()
            self._waiting_bytes -= n_bytes
            self._start(call_id, data, buffers)
        self._choose_reading()

    def _choose_reading(self) -> None:
        if self.writing_paused or self._waiting_bytes > WAITING_BYTES:
            self._transport.pause_reading()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more of its calls (asyncio)."""
        super().pause_writing()
        self._writable.clear()
        self._choose_reading()

    def resume_writing(self) -> None:
        """The client reads again (asyncio)."""
        super().resume_writing()
        self._writable.set()
        self._start_waiting()

    def stream_broken(self, error: FrameError) -> None:
        """Gives up a client that breaks the protocol."""
        self._logger.warning("A call connection was closed: %s", error)
        super().stream_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to answer to (asyncio)."""
        super().connection_lost(exc)
        self._writable.set()
        self.cancel_all()
        if not self.running:
            self._on_idle(self)
