"""The loop thread: work from any thread, few wake-ups, its own after a fork, quiet at the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from serve.transport.loopthread import LoopThread, get_loop_thread


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    thread.start()
    yield thread
    thread.stop()
    assert thread.loop.is_closed()


def test_coroutines_callables_and_futures_are_carried_out(thread: LoopThread) -> None:
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return value * 2

    def future() -> asyncio.Future[str]:
        future: asyncio.Future[str] = thread.loop.create_future()
        thread.loop.call_soon(future.set_result, "later")
        return future

    assert thread.submit(double(2)).result(60) == 4
    assert thread.submit(lambda: double(3)).result(60) == 6
    assert thread.submit(future).result(60) == "later"
    assert thread.submit(threading.get_ident).result(60) != threading.get_ident()


def test_what_the_work_raises_comes_back(thread: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("a")

    for work in (fail(), fail, lambda: {"b": 1}["a"]):
        with pytest.raises(KeyError):
            thread.submit(work).result(60)


def test_many_submissions_cost_one_wake_up(thread: LoopThread) -> None:
    started, release = threading.Event(), threading.Event()
    order: list[int] = []

    def block() -> None:
        started.set()
        release.wait(5)

    thread.submit(block)
    started.wait(5)
    wake_ups = 0
    wake = thread.loop.call_soon_threadsafe

    class CountingLoop:
        def call_soon_threadsafe(self, callback: object) -> object:
            nonlocal wake_ups
            wake_ups += 1
            return wake(callback)  # type: ignore[arg-type]

    loop, thread.loop = thread.loop, CountingLoop()  # type: ignore[assignment]
    futures = [thread.submit(lambda i=i: order.append(i)) for i in range(100)]  # type: ignore[misc]
    thread.loop = loop
    release.set()
    concurrent.futures.wait(futures, 5)
    assert order == list(range(100))
    assert wake_ups <= 1


def test_submissions_from_many_threads_are_all_carried_out(thread: LoopThread) -> None:
    results: list[int] = []

    def submit() -> None:
        results.extend(thread.submit(lambda: 1).result(60) for _ in range(200))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(results) == 800


def test_cancelling_reaches_the_loop(thread: LoopThread) -> None:
    started, ended = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    future = thread.submit(work())
    assert started.wait(5)
    assert future.cancel()
    assert ended.wait(5)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(60)


def test_stopping_cancels_what_runs_and_refuses_what_comes() -> None:
    thread = LoopThread()
    thread.start()
    future = thread.submit(asyncio.sleep(3600))
    thread.submit(lambda: None).result(60)
    thread.stop()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(60)
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(lambda: None)
    thread.stop()


def test_the_process_has_one_and_gets_another_after_it_stopped() -> None:
    first = get_loop_thread()
    assert get_loop_thread() is first
    first.stop()
    second = get_loop_thread()
    assert second is not first
    assert second.submit(lambda: 1).result(60) == 1
    second.stop()


SCRIPT = """
import asyncio, os, sys
from serve.transport.loopthread import get_loop_thread

thread = get_loop_thread()
thread.submit(asyncio.sleep(0)).result(60)
pending = thread.submit(asyncio.sleep(3600))
child = os.fork()
if not child:
    own = get_loop_thread()
    assert own is not thread
    assert own.submit(lambda: os.getpid()).result(60) == os.getpid()
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert thread.submit(lambda: 5).result(60) == 5
print("done")
"""


@pytest.mark.slow
def test_a_fork_gets_its_own_thread_and_the_exit_is_quiet() -> None:
    finished = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.stdout, finished.returncode) == ("done\n", 0), finished.stderr
    assert "Warning" not in finished.stderr and "Traceback" not in finished.stderr, finished.stderr
