"""How many calls were made through each handle of this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from observability import catalog
from observability.instrument.export import start_export
from observability.instrument.numbers import OTHER, Family, process_numbers
from serve.ids import random_letters

MAX_HANDLES = 500
"""Handles of a process that have a series of their own."""


@dataclass(slots=True)
class CallCount:
    """The calls of one handle. `tag`: `<endpoint>#<6 letters>`."""

    tag: str
    endpoint: str
    calls: int = 0


_counts: list[CallCount] = []
_rest: dict[str, CallCount] = {}
"""By endpoint, for the handles of a process that makes them without end."""

_lock = threading.Lock()


def count_calls(endpoint: str) -> CallCount:
    """A new handle's count. It stays when the handle goes: a counter never shrinks.

    `handle.options(shard_key=...)` for each request makes a handle for each: those after the first
    MAX_HANDLES share one count per endpoint.
    """
    with _lock:
        if not _counts:
            process_numbers.join(_collect)
            start_export()
        if len(_counts) >= MAX_HANDLES:
            if endpoint not in _rest:
                _rest[endpoint] = CallCount(OTHER, endpoint)
            return _rest[endpoint]
        count = CallCount(f"{endpoint}#{random_letters()}", endpoint)
        _counts.append(count)
    return count


def _collect() -> list[Family]:
    family = Family(catalog.HANDLE_REQUESTS)
    for count in [*_counts, *_rest.values()]:
        family.add((count.tag, count.endpoint), float(count.calls))
    return [family]
