"""Reads the segments of one folder. A line is parsed only when its bytes may be what is wanted."""

from __future__ import annotations

import heapq
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from observability.fields import SEGMENT_PATTERN
from observability.trail.query import Query, Record

POLL_S = 0.2
REORDER = 256
"""Records that may stand out of order in a segment: threads note the time before they append."""

CHUNK_BYTES = 1024 * 1024
"""Read at once; of each segment, so much waits in memory to be merged."""

CLOCK_TICK_S = 1.0
"""A file's time is read from a coarser clock than a record's: it lags some milliseconds behind."""

_segment = re.compile(SEGMENT_PATTERN)
_decode = msgspec.json.Decoder(type=dict).decode


@dataclass
class SegmentFolder:
    """A folder of segments on this machine.

    Attributes:
        path: the folder. One that does not exist has no records.
        skipped: lines that could not be read so far: half-written ones, foreign ones.
    """

    path: Path
    skipped: int = field(default=0, init=False)

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records in the order of their time."""
        # Each segment for itself: two processes of one name (controllers of two instances) number
        # theirs in turn.
        streams = [
            in_order(self._parse_all(_lines_with(path, query.needles()), query))
            for path in self._files()
            if not query.since or _changed_after(path, query.since)
        ]
        return heapq.merge(*streams, key=time_of)

    def follow(
        self, query: Query, is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Record | None]:
        """The wanted records that are written from now on; None each time there are no more yet."""
        offsets = {path: _size(path) for path in self._files()}
        while not is_over():
            fresh: list[Record] = []
            for path in self._files():
                offset = offsets.get(path, 0)
                data = _read_from(path, offset)
                whole = data.rfind(b"\n") + 1
                offsets[path] = offset + whole
                fresh += self._parse_all(data[:whole].splitlines(), query)
            yield from sorted(fresh, key=time_of)
            yield None
            time.sleep(POLL_S)

    def _files(self) -> list[Path]:
        try:
            names = os.listdir(self.path)
        except OSError:
            return []
        return [self.path / name for name in sorted(names) if _segment.fullmatch(name)]

    def _parse_all(self, lines: Iterable[bytes], query: Query) -> Iterator[Record]:
        for record in parse_lines(lines, query):
            if record is None:
                self.skipped += 1
            else:
                yield record


def parse_lines(lines: Iterable[bytes], query: Query) -> Iterator[Record | None]:
    """The wanted records among lines; None for each line that is no record."""
    needles = query.needles()
    for line in lines:
        if not all(needle in line for needle in needles):
            continue
        try:
            record: Record = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield None
            continue
        if query.matches(record):
            yield record


def in_order(records: Iterable[Record]) -> Iterator[Record]:
    """Records that are nearly in the order of their time, in that order."""
    waiting: list[tuple[str, int, Record]] = []
    for number, record in enumerate(records):
        heapq.heappush(waiting, (time_of(record), number, record))
        if len(waiting) > REORDER:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def time_of(record: Record) -> str:
    """A record's time; "" for one that has none."""
    return str(record.get("time", ""))


def _lines_with(path: Path, needles: list[bytes]) -> Iterator[bytes]:
    """The lines that contain the first needle: it is searched for at the speed of memory.

    The file is open for no longer than a read takes: there may be more segments than a process may
    have open files.
    """
    offset, size = 0, CHUNK_BYTES
    while chunk := _read_from(path, offset, size):
        is_last = len(chunk) < size
        if not is_last:
            chunk = chunk[: chunk.rfind(b"\n") + 1]
            if not chunk:  # a longer line
                size *= 2
                continue
        if needles:
            yield from _search(chunk, needles[0])
        else:
            yield from chunk.splitlines()
        if is_last:
            return
        offset, size = offset + len(chunk), CHUNK_BYTES


def _search(data: bytes, needle: bytes) -> Iterator[bytes]:
    position = data.find(needle)
    while position >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        yield data[start:end]
        position = data.find(needle, end)


def _changed_after(path: Path, moment: str) -> bool:
    earliest_s = datetime.fromisoformat(moment[:26] + "+00:00").timestamp()
    try:
        return path.stat().st_mtime >= earliest_s - CLOCK_TICK_S
    except OSError:
        return False


def _read_from(path: Path, offset: int, size: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except FileNotFoundError:
        return b""  # deleted meanwhile: it was too old


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
