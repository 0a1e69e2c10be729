"""How often each handle was called."""

from __future__ import annotations

import re

import pytest

from observability import catalog
from observability.instrument.numbers import OTHER, Numbers
from serve.handle import counts
from serve.handle.counts import MAX_HANDLES, count_calls


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """A process without handles so far, and without Ray to export to."""
    made = Numbers()
    monkeypatch.setattr(counts, "_counts", [])
    monkeypatch.setattr(counts, "_rest", {})
    monkeypatch.setattr(counts, "process_numbers", made)
    monkeypatch.setattr(counts, "start_export", lambda: None)
    return made


def series(numbers: Numbers) -> dict[tuple[str, str], object]:
    (snapshot,) = numbers.snapshot()
    assert snapshot.metric is catalog.HANDLE_REQUESTS
    return {(s.labels["handle"], s.labels["endpoint"]): s.value for s in snapshot.samples}


def test_each_handle_has_a_tag_and_a_count_of_its_own(numbers: Numbers) -> None:
    first, second = count_calls("e"), count_calls("e")
    first.calls += 2
    assert re.fullmatch("e#[a-zA-Z]{6}", first.tag)
    assert series(numbers) == {(first.tag, "e"): 2.0, (second.tag, "e"): 0.0}


def test_the_count_of_a_handle_that_is_gone_stays(numbers: Numbers) -> None:
    count_calls("e").calls += 1
    assert list(series(numbers).values()) == [1.0]


def test_a_handle_for_each_request_neither_grows_without_end_nor_loses_a_call(
    numbers: Numbers,
) -> None:
    for number in range(MAX_HANDLES + 50):
        count_calls(("a", "b")[number % 2]).calls += 1
    found = series(numbers)
    assert len(found) == MAX_HANDLES + 2
    assert found[(OTHER, "a")] == found[(OTHER, "b")] == 25.0
    assert sum(value for value in found.values() if isinstance(value, float)) == MAX_HANDLES + 50
