"""How many calls were made through each handle of this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from observability import catalog
from observability.instrument.export import start_export
from observability.instrument.numbers import Family, process_numbers
from serve.ids import random_letters


@dataclass(slots=True)
class CallCount:
    """The calls of one handle. `tag`: `<endpoint>#<6 letters>`."""

    tag: str
    endpoint: str
    calls: int = 0


_counts: list[CallCount] = []
_lock = threading.Lock()


def count_calls(endpoint: str) -> CallCount:
    """A new handle's count. It stays when the handle goes: a counter never shrinks."""
    count = CallCount(f"{endpoint}#{random_letters()}", endpoint)
    with _lock:
        if not _counts:
            process_numbers.join(_collect)
            start_export()
        _counts.append(count)
    return count


def _collect() -> list[Family]:
    family = Family(catalog.HANDLE_REQUESTS)
    for count in list(_counts):
        family.add((count.tag, count.endpoint), float(count.calls))
    return [family]
