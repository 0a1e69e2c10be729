"""One request at a replica, whichever way it came: how it waited, ran and ended, told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from observability.instrument.access import CALLER_GONE
from observability.instrument.context import RequestContext
from serve.errors import NotExposedError, QueueTimeoutError, describe_error
from serve.replica.callable import describe_failure

_NOT_FOUND = 404
_FAILED = 500
_BUSY = 503


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
        queue_s: wait before the handler ran, seconds.
        processing_s: from there to the end, seconds.
        bytes_in: of the request's body; -1: not known.
        client: its address, if that is to be told.
        error: why it is no success.
        exception: traceback.
        failure: an exception whose traceback is in a log record of its own.
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_is_ended",
        "_sent_us",
        "_tell",
        "bytes_in",
        "bytes_out",
        "client",
        "context",
        "error",
        "exception",
        "failure",
        "method",
        "path",
        "processing_s",
        "queue_s",
        "status",
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
        self._arrived = time.perf_counter()
        self._begun = -1.0
        self._is_ended = False
        self.context = context
        self.way = way
        self.method = method
        self.path = path
        self.status = status
        self.queue_s = self.processing_s = 0.0
        self.bytes_in = -1
        self.bytes_out = bytes_out
        self.client = self.error = self.exception = ""
        self.failure: BaseException | None = None

    @property
    def is_ended(self) -> bool:
        """Whether it was told."""
        return self._is_ended

    def begin(self) -> None:
        """The wait is over, the handler runs now."""
        self.queue_s = self._wait_s()
        self._begun = time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """A call ended with an exception, which its caller gets."""
        if isinstance(error, asyncio.CancelledError):
            self.status, self.error = CALLER_GONE, "caller_gone"
        elif isinstance(error, QueueTimeoutError) and self._begun < 0:
            self.status, self.error = _BUSY, "queue_timeout"
        elif isinstance(error, NotExposedError):
            self.status, self.error = _NOT_FOUND, "method_not_exposed"
        else:
            self.status = _FAILED
            self.error, self.exception = describe_error(error), describe_failure(error)

    def end(self) -> None:
        """Tell it; a second time, nothing is done."""
        if self._is_ended:
            return
        self._is_ended = True
        if self._begun < 0:  # its turn never came
            self.queue_s = self._wait_s()
        else:
            self.processing_s = time.perf_counter() - self._begun
        self._tell(self)
        self.failure = None  # its frames know who made the visit

    def _wait_s(self) -> float:
        """Since it was sent. To another process only the wall clock is the same.

        On another node that is another clock, so the wait is at least the one here.
        """
        here_s = time.perf_counter() - self._arrived
        return max(here_s, time.time() - self._sent_us / 1_000_000) if self._sent_us else here_s
