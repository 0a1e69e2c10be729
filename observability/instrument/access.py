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


class AccessRecord(msgspec.Struct, omit_defaults=True, gc=False, kw_only=True):
    """The facts of one request. Fields are those of `observability.fields`; defaults are left out.

    `time` is filled in by the AccessLog.
    """

    time: str
    kind: str
    level: str
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

    def write(self, status: int, **facts: Any) -> None:
        """Append the record of a request that ended now.

        Args:
            status: HTTP status, or what HTTP would say.
            **facts: the other fields of AccessRecord.
        """
        record = AccessRecord(
            time=next_time(),
            kind="access",
            level="ERROR" if status >= 500 else "INFO",
            status=status,
            **facts,
        )
        self._writer.append(encode_line(record, self._tail))
