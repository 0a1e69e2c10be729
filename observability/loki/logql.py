"""A query in LogQL, and the span of time that Loki wants beside it. Pure.

It asks for what `Query.needles` asks of a segment's lines, in the same order, so that no record
which is wanted is missed; `Query.matches` decides on what comes back. Hence line filters, also for
the fields that are metadata: a request's id stands in `batch_ids` too, which is part of the line
only, and a Loki to which some agent brings no metadata has its records found all the same.
"""

from __future__ import annotations

import json
from dataclasses import replace

from observability.loki.words import JOB, SECOND_NS, to_ns
from observability.trail.query import LEVELS, Query

SPAN_NS = 7 * 24 * 3600 * SECOND_NS
"""How far back is looked without `since`: as long as segments are kept."""

AHEAD_NS = 600 * SECOND_NS
"""How far ahead without `until`: Loki takes no entry from further in the future."""


def to_logql(query: Query) -> str:
    """The query as a log query: labels select streams, then the lines are filtered.

    `since` and `until` are not in it; see `time_span`.
    """
    labels = [f"job={quote(JOB)}"]
    if query.backend:
        labels.append(f"backend={quote(query.backend)}")
    labels += _level_matcher(query.level)
    needles = replace(query, backend="").needles()
    filters = [f" |= {quote(needle.decode())}" for needle in needles]
    return f"{{{', '.join(labels)}}}{''.join(filters)}"


def time_span(query: Query, now_ns: int) -> tuple[int, int]:
    """First nanosecond that is asked for, and the one after the last: Loki's end is exclusive."""
    start = to_ns(query.since) if query.since else now_ns - SPAN_NS
    end = to_ns(query.until) + 1 if query.until else now_ns + AHEAD_NS
    return max(0, start), max(0, end)


def quote(text: str) -> str:
    """A text as LogQL writes it: as Go does, and JSON's escapes are among Go's.

    But for pairs of surrogates, so what is not ASCII stays as it is.
    """
    return json.dumps(text, ensure_ascii=False)


def _level_matcher(level: str) -> list[str]:
    """A level that is not known counts as INFO (`query.level_number`)."""
    least = LEVELS[level] if level else 0
    if least <= LEVELS["DEBUG"]:
        return []
    if least <= LEVELS["INFO"]:
        return ['level!="DEBUG"']
    wanted = "|".join(name for name, number in LEVELS.items() if number >= least)
    return [f'level=~"{wanted}"']
