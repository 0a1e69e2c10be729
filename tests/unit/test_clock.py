"""The time of records."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument import clock
from observability.instrument.clock import Clock

YEAR_2000_NS = 946_684_800_000_000_000
YEAR_2100_NS = 4_102_444_800_000_000_000


def clock_at(next_ns: Callable[[], int]) -> Callable[[], str]:
    """A clock over times of one's own: the machine's can't be set back here."""
    fake = SimpleNamespace(time_ns=next_ns, strftime=time.strftime, gmtime=time.gmtime)

    def read() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "time", fake)
            return made.next_time()

    made = Clock()
    return read


def to_ns(text: str) -> int:
    whole = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    return int(whole) * 1_000_000_000 + int(text[20:-1])


def test_a_time_is_now_in_utc_with_nine_decimals() -> None:
    before = time.time_ns()
    text = Clock().next_time()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    assert before <= to_ns(text) <= time.time_ns()


def test_zeros_after_the_point_are_kept() -> None:
    assert clock_at(lambda: YEAR_2000_NS + 5)() == "2000-01-01T00:00:00.000000005Z"


def test_times_asked_for_at_once_rise() -> None:
    made = Clock()
    times = [made.next_time() for _ in range(5000)]
    assert times == sorted(set(times))


def test_no_two_threads_get_the_same_time() -> None:
    made, found = Clock(), [[""] for _ in range(4)]

    def ask(number: int) -> None:
        found[number] = [made.next_time() for _ in range(3000)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({text for texts in found for text in texts}) == 12_000
    assert all(texts == sorted(texts) for texts in found)


@given(st.lists(st.integers(YEAR_2000_NS, YEAR_2100_NS), min_size=1, max_size=20))
def test_a_machines_clock_that_jumps_never_takes_the_records_back(jumps: list[int]) -> None:
    source = iter(jumps)
    read = clock_at(lambda: next(source))
    last = 0
    for now in jumps:
        moment = to_ns(read())
        assert moment == max(now, last + 1)
        last = moment
