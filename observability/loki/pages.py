"""Reading page by page: Loki gives so many entries a query, and no mark where the next begin. Pure.

The next page begins at the time at which this one ended, and what was seen of that time is left
out: entries of one time may stand on both sides of a page's end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

Entry = tuple[int, str]
"""Time in nanoseconds, and the line."""


class PageFullError(ValueError):
    """More entries of one time than fit on a page: some can't be reached."""


@dataclass
class Pages:
    """What to ask next, and what is new of an answer.

    Attributes:
        start_ns: earliest time to ask for.
        end_ns: the first time not to ask for.
        size: most entries of a page.
        is_backward: the latest entries first.
        is_over: nothing is left to ask for.
    """

    start_ns: int
    end_ns: int
    size: int
    is_backward: bool = False
    is_over: bool = field(default=False, init=False)
    _border_ns: int = field(default=-1, init=False)
    _seen: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.is_over = self.start_ns >= self.end_ns

    def take(self, entries: Iterable[Entry]) -> list[Entry]:
        """The entries of a page that are new, each once, in the order of the pages.

        A line that is there twice at one time was sent twice: no two records are alike.

        Raises:
            PageFullError: all of a full page have the same time, so the next would be the same.
        """
        page = sorted(entries, reverse=self.is_backward)
        fresh: list[Entry] = []
        for time_ns, line in page:
            if time_ns != self._border_ns:
                self._border_ns = time_ns
                self._seen = set()
            if line not in self._seen:
                self._seen.add(line)
                fresh.append((time_ns, line))
        if len(page) < self.size:
            self.is_over = True
            return fresh
        before = (self.start_ns, self.end_ns)
        if self.is_backward:
            self.end_ns = self._border_ns + 1
        else:
            self.start_ns = self._border_ns
        if before == (self.start_ns, self.end_ns):
            raise PageFullError(f"{len(page)} entries have the time {self._border_ns}")
        return fresh
