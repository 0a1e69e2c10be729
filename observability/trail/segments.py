"""Reads the segments of one folder. A line is parsed only when its bytes may be what is wanted."""

from __future__ import annotations

import heapq
import mmap
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
        chains: dict[str, list[Path]] = {}
        for path in self._files():
            if not query.since or _changed_after(path, query.since):
                chains.setdefault(path.name.rpartition(".")[0].rpartition(".")[0], []).append(path)
        streams = [in_order(self._read_all(paths, query)) for paths in chains.values()]
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

    def _read_all(self, paths: list[Path], query: Query) -> Iterator[Record]:
        for path in paths:
            yield from self._read_one(path, query)

    def _read_one(self, path: Path, query: Query) -> Iterator[Record]:
        needles = query.needles()
        try:
            with open(path, "rb") as file:
                if not needles:
                    yield from self._parse_all(file, query)
                elif os.fstat(file.fileno()).st_size:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                        yield from self._parse_all(_lines_with(data, needles), query)
        except FileNotFoundError:
            return  # deleted meanwhile: it was too old

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
        except msgspec.DecodeError:
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


def _lines_with(data: mmap.mmap, needles: list[bytes]) -> Iterator[bytes]:
    """The lines that contain the first needle: it is searched for at the speed of memory."""
    position = data.find(needles[0])
    while position >= 0:
        start = data.rfind(b"\n", 0, position) + 1
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        yield data[start:end]
        position = data.find(needles[0], end)


def _changed_after(path: Path, moment: str) -> bool:
    try:
        return path.stat().st_mtime >= datetime.fromisoformat(moment[:26] + "+00:00").timestamp()
    except OSError:
        return False


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read()
    except OSError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
