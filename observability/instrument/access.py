"""Access records: one for each request, encoded directly, past `logging`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from observability.instrument.clock import next_time
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.segments import SegmentWriter

CALLER_GONE = 499
"""Status of a request whose client went away before its answer began (nginx's)."""


class AccessRecord(msgspec.Struct, omit_defaults=True, gc=False):
    """The facts of one request. Fields are those of `observability.fields`; defaults are left out.

    `time`, `kind` and `level` are filled in by the AccessLog.
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
    processing_ms: float = -1.0
    bytes_in: int = -1
    bytes_out: int = -1
    client: str = ""
    retries: int = 0
    error: str = ""
    exception: str = ""
    backend: str = ""


class AccessLog:
    """Writes access records to a process's segments.

    Args:
        writer: of this process.
        static: fields that all records of this process have.
    """

    def __init__(self, writer: SegmentWriter, static: Mapping[str, Any]) -> None:
        self._writer = writer
        self._tail = encode_tail(static)

    def write(self, record: AccessRecord) -> None:
        """Append the record of a request that ended now."""
        record.time = next_time()
        record.kind = "access"
        record.level = "ERROR" if record.status >= 500 else "INFO"
        self._writer.append(encode_line(record, self._tail))


def to_ms(seconds: float) -> float:
    """Milliseconds with three decimals. Not `round`, which costs three times as much."""
    return int(seconds * 1_000_000 + 0.5) / 1000
