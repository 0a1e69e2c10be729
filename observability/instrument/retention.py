"""How much of the segments is kept: the limits, without the files. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept in a folder.

    Attributes:
        segment_bytes: a segment that has reached this is full.
        max_age_s: full segments, and those of processes that ended, go after this.
        max_total_bytes: above it the oldest of those go first.
    """

    segment_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0
    max_total_bytes: int = 2 * 1024 * 1024 * 1024
