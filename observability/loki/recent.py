"""Following: the same stretch of time is asked for again and again, each entry is told once. Pure.

Entries come late: an agent sends every second, and each node's at its own time. So what was asked
for already is asked for again for a while.
"""

from __future__ import annotations

from collections.abc import Iterable

from observability.loki.pages import Entry
from observability.loki.words import SECOND_NS

OVERLAP_NS = 5 * SECOND_NS
"""So much later than the newest one an entry may come."""

LONGEST_NS = 3600 * SECOND_NS
"""Never ask for more than this, however long nothing came."""


class Recent:
    """What was told, as far back as is asked for.

    Args:
        begin_ns: entries before this were there already.
    """

    def __init__(self, begin_ns: int) -> None:
        self._begin_ns = begin_ns
        self._newest_ns = begin_ns
        self._told: set[Entry] = set()

    def start_ns(self, now_ns: int) -> int:
        """From when on to ask."""
        return max(self._begin_ns, self._newest_ns - OVERLAP_NS, now_ns - LONGEST_NS)

    def take(self, entries: Iterable[Entry], now_ns: int) -> list[Entry]:
        """Those that were not told yet, in the order of time.

        Args:
            entries: all since `start_ns`.
            now_ns: an entry from the future, of a node whose clock is wrong, moves nothing.
        """
        fresh = sorted(set(entries) - self._told)
        if fresh:
            self._newest_ns = max(self._newest_ns, min(fresh[-1][0], now_ns))
        earliest = self.start_ns(now_ns)
        self._told = {entry for entry in self._told.union(fresh) if entry[0] >= earliest}
        return fresh
