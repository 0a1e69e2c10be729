"""The access record: the facts of one request. Pure; `access_log.py` writes it."""

from __future__ import annotations

import msgspec

CALLER_GONE = 499
"""Status of a request whose client went away before its answer began (nginx's)."""


class AccessRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """The facts of one request. Fields are those of `observability.fields`; defaults are left out.

    `time` and `kind` are filled in by the AccessLog, and `level` where it is empty.
    """

    time: str = ""
    kind: str = ""
    level: str = ""
    way: str = ""
    method: str = ""
    path: str = ""
    status: int = -1
    endpoint: str = ""
    route: str = ""
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    queue_ms: float = -1.0
    sender_ms: float = 0.0
    replica_ms: float = 0.0
    batch_ms: float = 0.0
    processing_ms: float = -1.0
    send_ms: float = 0.0
    bytes_in: int = -1
    bytes_out: int = -1
    client: str = ""
    retries: int = 0
    close_code: int = 0
    error: str = ""
    exception: str = ""
    backend: str = ""
    replica: str = ""
    batch_ids: tuple[str, ...] = ()
    batch_mates: tuple[str, ...] = ()
    batch_span_id: str = ""


def to_ms(seconds: float) -> float:
    """Milliseconds with three decimals. Not `round`, which costs three times as much."""
    return int(seconds * 1_000_000 + 0.5) / 1000
