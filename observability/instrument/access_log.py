"""Writes access records: one for each request, encoded directly, past `logging`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from observability.instrument.access import AccessRecord
from observability.instrument.clock import next_time
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.segments import SegmentWriter


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
        """Append the record of a request that ended now, at its own level or that of its status."""
        record.time = next_time()
        record.kind = "access"
        if not record.level:
            record.level = "ERROR" if record.status >= 500 else "INFO"
        self._writer.append(encode_line(record, self._tail))
