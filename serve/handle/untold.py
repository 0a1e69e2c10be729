"""Calls of which no replica tells: refused by the caller's side, or lost with their replica.

A process that keeps access records tells of them itself: a replica whose handler calls another
endpoint. A driver keeps none: the exception that its caller gets is all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from observability.instrument.access import CALLER_GONE
from serve.call import Call

WAY_OF_SHADOWS = "shadow"


class Reason(Enum):
    """Why: the record's `error`, and the status that HTTP would have."""

    NOT_FOUND = ("not_found", 404)
    NO_TRAFFIC = ("no_traffic", 503)
    QUEUE_FULL = ("queue_full", 503)
    QUEUE_TIMEOUT = ("queue_timeout", 503)
    NO_REPLICA = ("no_replica", 503)
    REPLICA_DIED = ("replica_died", 502)
    CALLER_GONE = ("caller_gone", CALLER_GONE)
    NOT_SENDABLE = ("not_sendable", 400)
    NO_CONTROLLER = ("no_controller", 503)


Record = Callable[[Call, str, str, Reason, str], None]
"""Takes a call, its way, the backend it was for ("": none was chosen), the reason, and the replica
that it was lost with ("": none had it)."""

_record: Record | None = None


def record_untold_calls(record: Record | None) -> None:
    """From now on this process keeps records of its calls that no replica tells of; None: none."""
    global _record
    _record = record


def keeps_records() -> bool:
    """Whether this process does."""
    return _record is not None


def tell_call(
    message: tuple[Any, ...], backend: str, reason: Reason, way: str = "call", replica: str = ""
) -> None:
    """A call ended, and no replica knows. From any thread.

    Args:
        message: the Call, as it travels.
        backend: tag of the backend it was for; "" when none was chosen.
        reason: why.
        way: `call` or `remote`.
        replica: tag of the replica that it was lost with; "": none had it.
    """
    if _record is not None:
        call = Call(*message)
        _record(call, WAY_OF_SHADOWS if call.is_shadow else way, backend, reason, replica)
