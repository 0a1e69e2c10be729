"""Makes room in a folder of segments: which of them go, by age and by size.

A segment that is being written holds a shared lock (see `segments.py`); it stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from observability.fields import SEGMENT_PATTERN
from observability.instrument.retention import Retention, stem_of

_PRUNE_LOCK = ".prune.lock"
_segment = re.compile(SEGMENT_PATTERN)


def prune(folder: str, retention: Retention, now_s: float, name: str = "") -> list[str]:
    """Delete segments that are too old, then the oldest ones until the rest is small enough.

    A stem that somebody writes is its writers' to prune by age and by their share: a backend with
    limits of its own loses nothing to others' and takes nothing from them. The folder's total is
    one for all. Segments that are being written are left alone. One process does it at a time.

    Args:
        folder: where the segments are.
        retention: limits.
        now_s: the time, seconds since the epoch.
        name: whose stem is the caller's own; "": nobody's.

    Returns:
        Names of the deleted files.
    """
    deleted: list[str] = []
    with open(os.path.join(folder, _PRUNE_LOCK), "w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return deleted
        stems: dict[str, list[_Found]] = {}
        for found in _stat_all(folder):
            stems.setdefault(found.stem, []).append(found)
        own = stems.pop(stem_of(name), []) if name else []
        share = retention.own
        deleted += _make_room(own, now_s - share.max_age_s, share.max_total_bytes)
        oldest_s = now_s - retention.max_age_s
        for segments in stems.values():
            if any(s.modified_s < oldest_s for s in segments) and not _is_written(segments):
                deleted += _make_room(segments, oldest_s, retention.max_total_bytes)
        deleted += _make_room(_stat_all(folder), -math.inf, retention.max_total_bytes)
    return sorted(deleted)


@dataclass(frozen=True, slots=True)
class _Found:
    """A segment as it is in the folder."""

    path: Path
    stem: str
    modified_s: float
    size: int


def _make_room(segments: list[_Found], oldest_s: float, max_bytes: int) -> list[str]:
    """Delete those from before a time, then the oldest until the rest has no more bytes."""
    deleted = []
    total = sum(segment.size for segment in segments)
    for segment in sorted(segments, key=lambda segment: segment.modified_s):
        if segment.modified_s >= oldest_s and total <= max_bytes:
            continue
        if _delete_unless_written(segment.path):
            total -= segment.size
            deleted.append(segment.path.name)
    return deleted


def _stat_all(folder: str) -> list[_Found]:
    found = []
    for path in Path(folder).iterdir():
        match = _segment.fullmatch(path.name)
        if match:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                state = path.stat()
                found.append(_Found(path, stem_of(match["name"]), state.st_mtime, state.st_size))
    return found


def _is_written(segments: list[_Found]) -> bool:
    """Whether a process writes one of them."""
    return not all(_try_lock(segment.path) for segment in segments)


def _try_lock(path: Path) -> bool:
    """Whether nobody writes a segment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # deleted meanwhile
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _delete_unless_written(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except OSError:  # a process writes it
        return False
    finally:
        os.close(fd)
    return True
