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

    __slots__ = ("_begun", "_call", "_context", "_error", "_exception", "_status", "_trail", "_way")

    def __init__(self, trail: ReplicaTrail, context: RequestContext, call: Call, way: str) -> None:
        self._trail = trail
        self._context = context
        self._call = call
        self._way = way
        self._begun = 0.0
        self._status = _OK
        self._error = self._exception = ""

    def begin(self) -> None:
        """The wait is over, the handler runs now."""
        self._begun = time.time()

    def fail(self, error: BaseException) -> None:
        """It ended with an exception."""
        if isinstance(error, asyncio.CancelledError):
            self._status, self._error = CALLER_GONE, "caller_gone"
        elif isinstance(error, QueueTimeoutError) and not self._begun:
            self._status, self._error = _BUSY, "queue_timeout"
        elif isinstance(error, NotExposedError):
            self._status, self._error = _NOT_FOUND, "method_not_exposed"
        else:
            self._status = _FAILED
            self._error, self._exception = describe_error(error), describe_failure(error)

    def end(self) -> None:
        """Tell the trail."""
        now = time.time()
        begun = self._begun or now
        # On another node the caller's clock is another one: never less than nothing.
        sent_us = self._call.sent_us
        self._trail.end(
            self._context,
            self._way,
            self._call.method,
            "",
            self._status,
            max(0.0, begun - sent_us / 1_000_000) if sent_us else 0.0,
            now - begun,
            error=self._error,
            exception=self._exception,
        )
