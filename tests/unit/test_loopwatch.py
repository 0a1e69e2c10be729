"""A blocked event loop is told once, with the place in the user's code and the whole stack."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import traceback
from collections.abc import Iterator

import pytest

from serve.replica.loopwatch import LoopWatch, find_place
from serve.replica.metrics import ReplicaMetrics

pytestmark = pytest.mark.slow

LIMIT_S = 60


class Told(logging.Handler):
    """Keeps the records that the watch writes, and lets a thread wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    def wait_for(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.records) >= count, LIMIT_S)


@pytest.fixture
def told() -> Iterator[Told]:
    handler, logger = Told(), logging.getLogger("ray.serve")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
async def metrics() -> ReplicaMetrics:
    return ReplicaMetrics("b", "b#1", lambda: (0, 0))


async def test_a_blocked_loop_is_told_with_where_it_is_and_told_again_when_it_goes_on(
    told: Told, metrics: ReplicaMetrics
) -> None:
    watch = LoopWatch(metrics, blocked_s=0.5)
    watch.start()
    await asyncio.sleep(0)
    held_up = told.wait_for(1)  # blocks this very loop
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    assert held_up
    while len(told.records) < 2:
        await asyncio.sleep(0.01)
    watch.stop()
    blocked, over = told.records
    text = blocked.getMessage()
    assert blocked.levelno == logging.ERROR
    assert blocked.pathname == __file__
    assert f"is blocked for 0.5 s, in {__file__}:" in text
    assert f"line {line}, in test_a_blocked_loop" in (blocked.stack_info or "")
    assert "goes on after" in over.getMessage()


async def test_a_loop_whose_thread_has_ended_is_told(told: Told, metrics: ReplicaMetrics) -> None:
    watch = LoopWatch(metrics, blocked_s=0.5)

    async def start() -> None:
        watch.start()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(start(),))
    thread.start()
    thread.join(LIMIT_S)
    try:
        # In a thread that may have the number of the ended one.
        await asyncio.to_thread(told.wait_for, 1)
        assert "has ended" in told.records[0].getMessage()
    finally:
        watch.stop()
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))  # its task ends
        loop.close()


async def test_a_loop_that_is_not_blocked_is_not_told_and_its_lag_is_known(
    told: Told, metrics: ReplicaMetrics
) -> None:
    watch = LoopWatch(metrics, blocked_s=0.5)
    watch.start()
    while not metrics.loop_lag_ms:
        await asyncio.sleep(0.01)
    watch.stop()
    assert told.records == []


def test_the_place_is_the_innermost_one_outside_of_libraries() -> None:
    frames = [("/app/main.py", 1, "outer"), ("/app/model.py", 2, "load")]
    library = (asyncio.__file__, 3, "select")
    own = traceback.StackSummary.from_list([(*frame, "") for frame in frames])
    deep = traceback.StackSummary.from_list([(*frame, "") for frame in (*frames, library)])
    only = traceback.StackSummary.from_list([(*library, "")])
    assert find_place(own).name == find_place(deep).name == "load"
    assert find_place(only).name == "select"
