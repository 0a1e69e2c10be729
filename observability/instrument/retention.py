"""How much of the segments is kept: the limits, without the files. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Limits of one writer's own: of the segments of its stem, and of no others.

    Attributes:
        max_age_s: as Retention's.
        max_total_bytes: above it the oldest of the stem's go first.
    """

    max_age_s: float
    max_total_bytes: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept in a folder.

    Attributes:
        segment_bytes: a segment that has reached this is full.
        max_age_s: full segments, and those of processes that ended, go after this: of a stem that
            is written, by its writers' word; of one that nobody writes any more, by anybody's.
        max_total_bytes: above it the oldest of the folder go first, of whatever stem.
        share: limits of the writer's own stem, in place of that age and below that total.
    """

    segment_bytes: int = 64 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0
    max_total_bytes: int = 2 * 1024 * 1024 * 1024
    share: Share | None = None

    @property
    def own(self) -> Share:
        """The limits of the writer's own stem."""
        return self.share or Share(self.max_age_s, self.max_total_bytes)


def stem_of(name: str) -> str:
    """What limits of one's own hold for: all replicas of a backend, all segments of another name.

    Args:
        name: first part of the segments' names, `replica_<backend>#<letters>` or `ingress_<node>`.
    """
    stem, hash_sign, _ = name.rpartition("#")
    return stem + hash_sign if hash_sign else name
