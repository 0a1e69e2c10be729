"""One request at a replica, whichever way it came: how it waited, ran and ended, told once."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

from observability.instrument.access import CALLER_GONE
from observability.instrument.context import RequestContext
from observability.instrument.waits import Waits
from serve.errors import NotExposedError, QueueTimeoutError
from serve.replica.failures import describe_error, is_stopped, trace_failure

_NOT_FOUND = 404
_FAILED = 500
_BUSY = 503
_WORTH_TELLING_S = 0.001

under_way: set[Visit] = set()
"""Those of this process that have not ended. A set, left at once: see `inbox.DisconnectWatch`."""


class Visit:
    """Filled by whoever serves the request, read by whoever writes its record.

    Args:
        tell: called with the visit at its end, once.
        context: of the request.
        way: `http`, `websocket`, `call`, `remote` or `shadow`.
        method: HTTP method, or the method called.
        path: raw path; "" for calls.
        sent_us: when it was sent here, microseconds since the epoch; 0: not known.
        status: HTTP status, or what HTTP would say; 0: no answer (yet).
        bytes_out: of the answer's body; -1: not known.

    Attributes:
        sender_s: from its sending to its arrival here, waiting at the sender included, seconds.
        gate_s: wait for a place here, seconds.
        thread_s: wait for a handler thread, seconds.
        batch_s: wait for its batch, seconds.
        send_s: wait for the client to take the answer, seconds.
        processing_s: all else until its end, the user's code, seconds.
        bytes_in: of the request's body; -1: not known.
        retries: replicas that died of it before it came here.
        client: its address, if that is to be told.
        close_code: of a WebSocket that was opened and has ended (RFC 6455, 7.4); 0: none.
        error: why it is no success.
        exception: traceback.
        failure: an exception whose traceback is in a log record of its own.
        is_ended: it was told.
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_last_sent",
        "_sending",
        "_sent_us",
        "_tell",
        "batch_s",
        "bytes_in",
        "bytes_out",
        "client",
        "close_code",
        "context",
        "error",
        "exception",
        "failure",
        "gate_s",
        "is_ended",
        "method",
        "path",
        "processing_s",
        "retries",
        "send_s",
        "sender_s",
        "status",
        "thread_s",
        "way",
    )

    def __init__(
        self,
        tell: Callable[[Visit], None],
        context: RequestContext,
        way: str,
        method: str,
        path: str = "",
        *,
        sent_us: int = 0,
        status: int = 0,
        bytes_out: int = -1,
    ) -> None:
        self._tell = tell
        self._sent_us = sent_us
        self._arrived = self._last_sent = time.perf_counter()
        self._begun = self._sending = -1.0
        self.is_ended = False
        self.context = context
        self.way = way
        self.method = method
        self.path = path
        self.status = status
        self.sender_s = self.gate_s = self.thread_s = self.batch_s = 0.0
        self.send_s = self.processing_s = 0.0
        self.bytes_in = -1
        self.retries = 0
        self.close_code = 0
        self.bytes_out = bytes_out
        self.client = self.error = self.exception = ""
        self.failure: BaseException | None = None
        under_way.add(self)

    @property
    def is_waiting(self) -> bool:
        """Whether no code of the user's has begun to work for it."""
        waits = self.context.waits
        return self._begun < 0 or (waits is not None and waits.is_waiting)

    def begin(self) -> None:
        """It has a place: the handler runs now, or waits for a thread or its batch."""
        self._begun = now = time.perf_counter()
        self._tell_wait(now)
        if self.gate_s > _WORTH_TELLING_S:  # it counts against what may be waited in all
            self.context.waits = self.context.waits or Waits()
            self.context.waits.gate_s = self.gate_s

    @property
    def silent_s(self) -> float:
        """Since it was sent here, or since a piece of its answer left last, seconds."""
        since_s = time.perf_counter() - self._last_sent
        return since_s + (self.sender_s if self._last_sent == self._arrived else 0.0)

    def note_sent(self) -> None:
        """A piece of the answer was handed on without a wait."""
        self._last_sent = time.perf_counter()

    def begin_sending(self) -> None:
        """A piece of the answer is handed on, which may have to wait."""
        self._sending = time.perf_counter()

    def end_sending(self) -> None:
        """It was taken."""
        self._last_sent = now = time.perf_counter()
        self.send_s += now - self._sending
        self._sending = -1.0

    def fail(self, error: BaseException) -> None:
        """A call ended with an exception, which its caller gets."""
        if is_stopped(error):
            self.status, self.error = CALLER_GONE, "caller_gone"
        elif isinstance(error, QueueTimeoutError) and self.is_waiting:
            self.status, self.error = _BUSY, "queue_timeout"
        elif isinstance(error, NotExposedError):
            self.status, self.error = _NOT_FOUND, "method_not_exposed"
        else:
            self.status = _FAILED
            self.error, self.exception = describe_error(error), trace_failure(error)

    def withdraw(self) -> None:
        """It is somebody else's to tell."""
        self.is_ended = True
        under_way.discard(self)

    def end(self) -> None:
        """Tell it; a second time, nothing is done."""
        if self.is_ended:
            return
        self.is_ended = True
        under_way.discard(self)
        now = time.perf_counter()
        if self._begun < 0:  # its turn never came
            self._tell_wait(now)
        else:
            if self._sending >= 0:
                self.send_s += now - self._sending
            own_s = now - self._begun - self.send_s
            waits = self.context.waits
            if waits is not None:
                waits.end()
                self.thread_s, self.batch_s = waits.thread_s, waits.batch_s
                own_s -= waits.thread_s + waits.batch_s
            if own_s > 0:
                self.processing_s = own_s
        self._tell(self)
        self.failure = None  # its frames know who made the visit

    @property
    def stage(self) -> str:
        """What it is at: `gate`, `thread`, `batch`, `run` or `send`."""
        waits = self.context.waits
        if self._begun < 0:
            return "gate"
        if waits is not None and waits.is_waiting:
            return "batch" if waits.is_for_batch else "thread"
        return "send" if self._sending >= 0 else "run"

    def as_if_ended(self) -> Visit:
        """A copy that has ended now and is told to nobody: its times so far. From any thread."""
        visit = copy.copy(self)
        visit._tell = lambda _: None
        visit.is_ended = False
        visit.context = replace(self.context, waits=copy.copy(self.context.waits))
        visit.end()
        return visit

    def _tell_wait(self, now: float) -> None:
        """The wait at the sender and at the gate, until now.

        To another process only the wall clock is the same. On another node that is another clock:
        one that is ahead of ours has not waited at all.
        """
        self.gate_s = now - self._arrived
        if self._sent_us:
            sender_s = time.time() - self._sent_us / 1_000_000 - self.gate_s
            if sender_s > 0:
                self.sender_s = sender_s
