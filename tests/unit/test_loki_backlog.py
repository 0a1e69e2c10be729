"""The bounded queue: every line that was put in is waiting, sent or dropped."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from observability.loki.backlog import Backlog

BIG = 1 << 30


def counts(backlog: Backlog) -> tuple[int, int, dict[str, int]]:
    return len(backlog), backlog.sent, dict(backlog.dropped)


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    backlog = Backlog(3, BIG)
    assert [backlog.put(b"x") for _ in range(5)] == [True] * 3 + [False] * 2
    assert counts(backlog) == (3, 0, {"queue_full": 2})


def test_bytes_are_bounded_too() -> None:
    backlog = Backlog(100, 10)
    assert [backlog.put(b"x" * size) for size in (4, 7, 6, 1)] == [True, False, True, False]
    backlog.take(1, BIG)
    backlog.settle()
    assert backlog.put(b"x" * 4)


def test_what_is_being_sent_still_takes_room() -> None:
    backlog = Backlog(2, BIG)
    backlog.put(b"a")
    backlog.put(b"b")
    assert backlog.take(2, BIG) == [b"a", b"b"]
    assert not backlog.put(b"c")
    backlog.settle()
    assert backlog.put(b"d")
    assert counts(backlog) == (1, 2, {"queue_full": 1})


def test_a_batch_is_bounded_by_lines_and_by_bytes_but_never_empty() -> None:
    backlog = Backlog(10, BIG)
    for line in (b"long line", b"a", b"b", b"c"):
        backlog.put(line)
    taken = []
    while batch := backlog.take(2, 3):
        taken.append(batch)
        backlog.settle()
    assert taken == [[b"long line"], [b"a", b"b"], [b"c"]]


def test_closing_drops_what_is_left_and_what_comes_later_also_what_is_being_sent() -> None:
    backlog = Backlog(10, BIG)
    for _ in range(3):
        backlog.put(b"x")
    backlog.take(2, BIG)
    backlog.close()
    assert not backlog.put(b"y")
    backlog.settle()  # of a request that ended after all
    assert counts(backlog) == (0, 0, {"closed": 4})


def test_closing_an_empty_one_drops_nothing() -> None:
    backlog = Backlog(10, BIG)
    backlog.close()
    assert counts(backlog) == (0, 0, {})


@given(
    st.lists(st.sampled_from(["put", "take", "settle", "refuse"]) | st.just("put"), max_size=60),
    st.integers(1, 8),
)
def test_no_line_is_forgotten(steps: list[str], size: int) -> None:
    backlog, put = Backlog(size, BIG), 0
    for step in steps:
        if step == "put":
            backlog.put(b"x")
            put += 1
        elif step == "take":
            backlog.take(3, BIG)
        else:
            backlog.settle("" if step == "settle" else "refused")
        waiting, sent, dropped = counts(backlog)
        assert waiting + sent + sum(dropped.values()) == put
        assert waiting <= size


def test_counts_are_exact_from_several_threads() -> None:
    backlog = Backlog(1_000, BIG)

    def work() -> None:
        for _ in range(2_000):
            backlog.put(b"x")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(backlog) == (1_000, 0, {"queue_full": 15_000})


def test_waiting_for_it_to_empty_has_a_limit_and_ends_when_what_was_in_has_left() -> None:
    backlog = Backlog(10, BIG)
    backlog.put(b"x")
    backlog.wait_settled(0.01)
    assert len(backlog) == 1

    waiter = threading.Thread(target=backlog.wait_settled, args=[30])
    waiter.start()
    backlog.take(1, BIG)
    backlog.settle()
    waiter.join(20)
    assert not waiter.is_alive()


def test_in_a_child_it_begins_anew() -> None:
    backlog = Backlog(10, BIG)
    backlog.put(b"parent's")
    backlog.close()
    backlog.empty()
    assert backlog.put(b"own")
    assert counts(backlog) == (1, 0, {})
