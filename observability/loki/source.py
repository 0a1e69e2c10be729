"""The records that are in a Loki, asked for as those of the segments are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from observability.loki.client import LokiClient, LokiError
from observability.loki.logql import time_span, to_logql
from observability.loki.pages import Entry
from observability.loki.recent import Recent
from observability.trail.query import Query, Record
from observability.trail.segments import in_order, parse_lines, time_of
from observability.trail.source import Fresh, Present, skipped_problem

POLL_S = 1.0
LEAST_PAGE = 100
"""For the last records: some of those that come may not be wanted."""


class LokiSource:
    """Reads what agents brought to a Loki.

    Args:
        client: of the Loki.
        now_ns: the clock, nanoseconds since the epoch.
        wait: how to wait so many seconds.

    Every method raises LokiError when Loki can't be reached or refuses.
    """

    def __init__(
        self,
        client: LokiClient,
        now_ns: Callable[[], int] = time.time_ns,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._now_ns = now_ns
        self._wait = wait
        self._skipped = 0

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records in the order of their time; of the last 7 days without `since`."""
        span = time_span(query, self._now_ns())
        # Loki's order is that of the entries' times, which some agents take from elsewhere.
        return in_order(self._parse(self._client.entries(to_logql(query), *span), query))

    def read_last(self, query: Query, count: int) -> list[Record]:
        """The last ones of those, without reading the others."""
        span = time_span(query, self._now_ns())
        page = max(LEAST_PAGE, count) if count < self._client.page_entries else None
        entries = self._client.entries(to_logql(query), *span, is_backward=True, page_entries=page)
        found: list[Record] = []
        for record in self._parse(entries, query):
            found.append(record)
            if len(found) == count:
                break
        return sorted(found, key=time_of)

    def ask(self, request_id: str) -> Present | None:
        """None: a Loki knows what was recorded only."""
        return None

    def follow(self, query: Query) -> Iterator[Fresh]:
        """The wanted records that come from now on, and what went wrong meanwhile."""
        recent = Recent(self._now_ns())
        is_first, has_failed = True, False
        while True:
            now_ns = self._now_ns()
            problems: tuple[str, ...] = ()
            records: list[Record] = []
            try:
                _, end_ns = time_span(query, now_ns)
                span = (recent.start_ns(now_ns), end_ns)
                entries = recent.take(self._client.entries(to_logql(query), *span), now_ns)
                records = sorted(self._parse(entries, query), key=time_of)
                has_failed = False
            except LokiError as error:
                if is_first:
                    raise
                problems = () if has_failed else (f"{error} It is asked again every second.",)
                has_failed = True
            is_first = False
            yield Fresh(records, problems)
            self._wait(POLL_S)

    def problems(self) -> list[str]:
        """What could not be read, for people."""
        return skipped_problem(self._skipped)

    def describe(self) -> str:
        """Where it looks, for messages."""
        return f"Loki at {self._client.base}"

    def _parse(self, entries: Iterable[Entry], query: Query) -> Iterator[Record]:
        for record in parse_lines((line.encode() for _, line in entries), query):
            if record is None:
                self._skipped += 1
            else:
                yield record
