"""Reading page by page: every entry once, whatever the times, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.loki.pages import Entry, PageFullError, Pages

SIZE = 4


def answer(pages: Pages, entries: list[Entry]) -> list[Entry]:
    """What a Loki answers: the first ones in the direction, in the order of its own choice."""
    inside = [e for e in entries if pages.start_ns <= e[0] < pages.end_ns]
    inside.sort(key=lambda entry: entry[0], reverse=pages.is_backward)
    return inside[: pages.size]


def read(entries: list[Entry], *, is_backward: bool) -> list[Entry]:
    pages = Pages(0, 1_000, SIZE, is_backward)
    found: list[Entry] = []
    for _ in range(1_000):
        if pages.is_over:
            return found
        found += pages.take(answer(pages, entries))
    raise AssertionError("no end")


@st.composite
def entry_lists(draw: st.DrawFn) -> list[Entry]:
    """At most SIZE - 1 of a time; some there twice, as after a second sending."""
    times = draw(st.lists(st.integers(0, 30), max_size=40))
    numbered = [(time, f"line {draw(st.integers(0, 99))}") for time in times]
    kept: list[Entry] = []
    for entry in numbered:
        if sum(1 for time, _ in kept if time == entry[0]) < SIZE - 1:
            kept.append(entry)
    return draw(st.permutations(kept))


@given(entry_lists(), st.booleans())
def test_each_entry_comes_once_and_in_order(entries: list[Entry], is_backward: bool) -> None:
    found = read(entries, is_backward=is_backward)

    assert sorted(found) == sorted(set(entries))
    times = [time for time, _ in found]
    assert times == sorted(times, reverse=is_backward)


def test_entries_of_one_time_on_both_sides_of_a_pages_end_are_neither_lost_nor_doubled() -> None:
    entries = [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (3, "e"), (4, "f")]
    assert read(entries, is_backward=False) == entries
    assert read(entries, is_backward=True) == entries[::-1]


@pytest.mark.parametrize("is_backward", [False, True])
def test_more_entries_of_one_time_than_fit_on_a_page_are_an_error_not_a_loss(
    is_backward: bool,
) -> None:
    with pytest.raises(PageFullError, match="4 entries have the time 7"):
        read([(7, str(number)) for number in range(9)], is_backward=is_backward)


def test_an_empty_span_is_over_at_once() -> None:
    assert Pages(5, 5, SIZE).is_over
    assert Pages(6, 5, SIZE).is_over
