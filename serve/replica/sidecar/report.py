"""The records of a replica's end, in its own segments: how it ended, and what it was at."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from observability.instrument.clock import format_time
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.formatter import LogLine
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from serve.replica.sidecar.exit import describe_exit, name_exit
from serve.replica.sidecar.slots import Lost


class Report:
    """Writes each record at once. Their time is that of the end, not of their writing.

    Args:
        folder: of the segments.
        name: of the replica's.
        static: fields of all its records.
        status: its exit status as `os.wait` has it; None: not known.
        died_s: when it ended, monotonic seconds.
    """

    def __init__(
        self,
        folder: str,
        name: str,
        static: Mapping[str, Any],
        status: int | None,
        died_s: float,
    ) -> None:
        self._writer = SegmentWriter(folder, name, Retention())
        self._tail = encode_tail(static)
        self._died_by = name_exit(status)
        self._died_s = died_s
        self._time_ns = time.time_ns() - round((time.monotonic() - died_s) * 1_000_000_000)
        self.tell(describe_exit(status))

    def tell(self, text: str, lost: Lost | None = None) -> None:
        """Say what became of a request that was under way; None: it is of the replica."""
        self._time_ns += 1  # no two records of a process have one time
        line = LogLine(format_time(self._time_ns), "log", "ERROR", "ray.serve", text)
        line.died_by = self._died_by
        if lost is not None:
            line.request_id, line.retries = lost.request_id, lost.runs - lost.is_begun
            if lost.is_begun:
                line.processing_ms = round((self._died_s - lost.began_s) * 1000, 3)
        self._writer.append(encode_line(line, self._tail))
        self._writer.flush()

    def close(self) -> None:
        """Let go of the segment."""
        self._writer.close()
