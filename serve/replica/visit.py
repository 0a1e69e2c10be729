"""One call through a handle, from its arrival at the replica to its end, for the trail."""

from __future__ import annotations

import asyncio
import time

from observability.instrument.access import CALLER_GONE
from observability.instrument.context import RequestContext
from serve.call import Call
from serve.errors import NotExposedError, QueueTimeoutError
from serve.replica.callable import describe_failure
from serve.replica.reply import describe_error
from serve.replica.trail import ReplicaTrail

_OK = 200
_NOT_FOUND = 404
_FAILED = 500
_BUSY = 503


class CallVisit:
    """Tells the trail of one call.

    Args:
        trail: hears of the end.
        context: of the request it belongs to.
        call: the call.
        way: `call`, `remote` or `shadow`.
    """

    __slots__ = (
        "_begun",
        "_call",
        "_context",
        "_error",
        "_exception",
        "_status",
        "_trail",
        "_waited_s",
        "_way",
    )

    def __init__(self, trail: ReplicaTrail, context: RequestContext, call: Call, way: str) -> None:
        self._trail = trail
        self._context = context
        self._call = call
        self._way = way
        self._waited_s = 0.0
        self._begun = -1.0
        self._status = _OK
        self._error = self._exception = ""

    def begin(self) -> None:
        """The wait is over, the handler runs now."""
        self._waited_s = self._wait_s()
        self._begun = time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """It ended with an exception."""
        if isinstance(error, asyncio.CancelledError):
            self._status, self._error = CALLER_GONE, "caller_gone"
        elif isinstance(error, QueueTimeoutError) and self._begun < 0:
            self._status, self._error = _BUSY, "queue_timeout"
        elif isinstance(error, NotExposedError):
            self._status, self._error = _NOT_FOUND, "method_not_exposed"
        else:
            self._status = _FAILED
            self._error, self._exception = describe_error(error), describe_failure(error)

    def end(self) -> None:
        """Tell the trail."""
        if self._begun < 0:  # its turn never came
            waited_s, ran_s = self._wait_s(), 0.0
        else:
            waited_s, ran_s = self._waited_s, time.perf_counter() - self._begun
        self._trail.end(
            self._context,
            self._way,
            self._call.method,
            "",
            self._status,
            waited_s,
            ran_s,
            error=self._error,
            exception=self._exception,
        )

    def _wait_s(self) -> float:
        """Since it was sent, by another process: only the wall clock is the same there."""
        sent_us = self._call.sent_us
        # On another node the caller's clock is another one: never less than nothing.
        return max(0.0, time.time() - sent_us / 1_000_000) if sent_us else 0.0
