"""Spans leave in batches, from a thread; whatever happens there, who puts one in does not wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from observability.instrument.spanqueue import THREAD_NAME, SpanQueue

LONG_S = 60.0


class Sink:
    """An exporter: keeps what comes, and waits, fails or raises if told so."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.answer: Callable[[Sequence[Any]], tuple[int, str]] = lambda items: (0, "")
        self.is_closed = False

    def __call__(self, items: Sequence[Any]) -> tuple[int, str]:
        self.entered.set()
        self.gate.wait()
        self.batches.append(list(items))
        return self.answer(items)

    def close(self) -> None:
        self.is_closed = True


def start(sink: Sink, size: int = 100, batch_size: int = 10, delay_s: float = LONG_S) -> SpanQueue:
    queue = SpanQueue(sink, size, batch_size, delay_s, ("serve", "b", "b#1"), sink.close)
    queue.start()
    return queue


def wait_for(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def dropped(queue: SpanQueue) -> list[tuple[tuple[str, ...], float]]:
    (family,) = queue.collect()
    return list(family.values.items())


def test_a_full_batch_leaves_at_once() -> None:
    sink = Sink()
    queue = start(sink, batch_size=3)
    for item in "abc":
        queue.put(item)
    wait_for(lambda: sink.batches == [["a", "b", "c"]])
    queue.close()


def test_a_part_of_a_batch_leaves_after_the_delay() -> None:
    sink = Sink()
    queue = start(sink, delay_s=0.05)
    queue.put("a")
    wait_for(lambda: sink.batches == [["a"]])
    queue.close()


def test_closing_sends_what_waits_and_ends_the_thread() -> None:
    sink = Sink()
    queue = start(sink, batch_size=2)
    queue.put("a")
    queue.close()
    assert sink.batches == [["a"]]
    assert sink.is_closed
    assert THREAD_NAME not in {thread.name for thread in threading.enumerate()}
    assert dropped(queue) == [(("serve", "b", "b#1"), 0.0)]


def test_what_does_not_fit_is_dropped_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    sink.gate.clear()
    queue = start(sink, size=4, batch_size=1)
    queue.put("at the exporter")
    sink.entered.wait(10)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        for number in range(10):
            queue.put(number)  # who waited for the exporter would wait for ever
    assert queue.dropped == 6
    assert [record.getMessage()[:45] for record in caplog.records] == [
        "Spans are dropped: 4 wait already, faster tha"
    ]
    sink.gate.set()
    queue.close()
    assert sink.batches == [["at the exporter"], [0], [1], [2], [3]]


@pytest.mark.parametrize("how", ["raises", "tells"])
def test_what_an_exporter_loses_is_counted_and_the_next_batch_goes_on(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(items: Sequence[Any]) -> tuple[int, str]:
        if how == "raises":
            raise OSError("no route")
        return len(items), "no route"

    sink = Sink()
    sink.answer = fail
    queue = start(sink, batch_size=2)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        for item in "abcd":
            queue.put(item)
        queue.close()
    assert sink.batches == [["a", "b"], ["c", "d"]]
    assert queue.dropped == 4
    assert len(caplog.records) == 1
    assert "no route" in caplog.text


def test_closing_waits_no_longer_than_its_limit() -> None:
    sink = Sink()
    sink.gate.clear()
    queue = start(sink, batch_size=1)
    for item in "abc":
        queue.put(item)
    sink.entered.wait(10)
    queue.close(0.1)  # who waited for the exporter would wait for ever
    assert queue.dropped >= 2
    queue.put("late")
    assert queue.dropped >= 3
    sink.gate.set()
