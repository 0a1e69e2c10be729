"""Following: each entry once, the late ones too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from observability.loki.pages import Entry
from observability.loki.recent import LONGEST_NS, OVERLAP_NS, Recent

BEGIN = 1_795_000_000_000_000_000
SECOND = 10**9


@given(st.lists(st.lists(st.integers(0, OVERLAP_NS), max_size=5), max_size=12))
def test_what_comes_within_the_overlap_is_told_once(delays: list[list[int]]) -> None:
    recent = Recent(BEGIN)
    arrived: list[Entry] = []
    told: list[Entry] = []
    now = BEGIN
    for second, batch in enumerate(delays, 1):
        now += SECOND
        late = [(max(BEGIN, now - delay), f"{second} {i}") for i, delay in enumerate(batch)]
        # Nothing is later than the overlap behind the newest one: that is what is promised.
        arrived += [e for e in late if e[0] >= recent.start_ns(now)]
        told += recent.take((e for e in arrived if e[0] >= recent.start_ns(now)), now)

    assert sorted(told) == sorted(arrived)


def test_what_was_there_before_is_not_asked_for() -> None:
    assert Recent(BEGIN).start_ns(BEGIN + SECOND) == BEGIN


def test_an_agent_that_was_away_is_waited_for_while_nothing_else_comes() -> None:
    recent = Recent(BEGIN)
    recent.take([(BEGIN + 20 * SECOND, "last")], BEGIN + 20 * SECOND)
    assert recent.start_ns(BEGIN + 600 * SECOND) == BEGIN + 20 * SECOND - OVERLAP_NS


def test_after_a_long_silence_no_more_than_an_hour_is_asked_for() -> None:
    now = BEGIN + 5 * LONGEST_NS
    assert Recent(BEGIN).start_ns(now) == now - LONGEST_NS


def test_a_clock_that_is_ahead_hides_nothing_of_the_others() -> None:
    recent = Recent(BEGIN)
    now = BEGIN + 60 * SECOND
    recent.take([(now + 300 * SECOND, "from the future")], now)

    assert recent.start_ns(now) == now - OVERLAP_NS
    entries = [(now, "now"), (now + 300 * SECOND, "from the future")]
    assert recent.take(entries, now + SECOND) == [(now, "now")]
