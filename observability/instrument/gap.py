"""Records that could not be written, and the record that says so once there is room again."""

from __future__ import annotations

from typing import NamedTuple

from observability.fields import DROPPED_WORDS
from observability.instrument.clock import next_time
from observability.instrument.encode import encode_line
from observability.instrument.formatter import LogLine


class Gap(NamedTuple):
    """What was dropped.

    Attributes:
        since: time of the first, as records have it.
        records: how many.
        why: what the system said to the first.
    """

    since: str
    records: int
    why: str

    @classmethod
    def begin(cls, count: int, why: str) -> Gap:
        """So many were dropped now, the first ones."""
        return cls(next_time(), count, why)

    def grow(self, count: int) -> Gap:
        """So many more."""
        return self._replace(records=self.records + count)


def make_gap_line(gap: Gap) -> LogLine:
    """The record that says what was dropped until now."""
    text = f"{gap.records} {DROPPED_WORDS}, the first at {gap.since}: {gap.why}"
    line = LogLine(next_time(), "log", "ERROR", "ray.serve", text)
    line.dropped, line.dropped_since = gap.records, gap.since
    return line


def encode_gap(gap: Gap, tail: bytes) -> bytes:
    """That record as a line; `tail`: the process's own fields, as `encode_tail` gives them."""
    return encode_line(make_gap_line(gap), tail)
