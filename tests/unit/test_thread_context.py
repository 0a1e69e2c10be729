"""A thread works for the request that started it, a pool's thread for the one that asks it now."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import anyio.to_thread
import pytest

from observability.instrument.context import RequestContext, request_context
from observability.instrument.thread_context import carry_into_threads

LIMIT_S = 60

Ask = Callable[[Callable[[], Any]], Any]
"""Runs a function in a thread, in one way or another, and gives what it returned."""


@pytest.fixture(autouse=True)
def carrying() -> Iterator[None]:
    undo = carry_into_threads()
    yield
    undo()


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    token = request_context.set(None)
    yield
    request_context.reset(token)


def own_id() -> str:
    request = request_context.get()
    return "" if request is None else request.request_id


def ask_as(request_id: str, ask: Ask, function: Callable[[], Any] = own_id) -> Any:
    token = request_context.set(RequestContext(request_id))
    try:
        return ask(function)
    finally:
        request_context.reset(token)


class OwnRun(threading.Thread):
    """A subclass with a `run` of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def run(self) -> None:
        self._work()


def by_thread(make: Callable[[Callable[[], Any]], threading.Thread], function: Any) -> Any:
    found: list[Any] = []
    thread = make(lambda: found.append(function()))
    thread.start()
    thread.join(LIMIT_S)
    return found.pop()


THREADS: dict[str, Ask] = {
    "thread": partial(by_thread, lambda work: threading.Thread(target=work)),
    "subclass": partial(by_thread, OwnRun),
    "timer": partial(by_thread, lambda work: threading.Timer(0, work)),
}
POOLS: dict[str, Callable[[ThreadPoolExecutor, ThreadPool, Callable[[], Any]], Any]] = {
    "submit": lambda executor, pool, work: executor.submit(work).result(LIMIT_S),
    "executor.map": lambda executor, pool, work: next(executor.map(lambda _: work(), [1])),
    "apply": lambda executor, pool, work: pool.apply(work),
    "apply_async": lambda executor, pool, work: pool.apply_async(work).get(LIMIT_S),
    "map": lambda executor, pool, work: pool.map(lambda _: work(), [1])[0],
    "map_async": lambda executor, pool, work: pool.map_async(lambda _: work(), [1]).get(LIMIT_S)[0],
    "starmap": lambda executor, pool, work: pool.starmap(lambda *_: work(), [(1, 2)])[0],
    "starmap_async": lambda executor, pool, work: pool.starmap_async(
        lambda *_: work(), [(1, 2)]
    ).get(LIMIT_S)[0],
    "imap": lambda executor, pool, work: next(pool.imap(lambda _: work(), [1])),
    "imap_unordered": lambda executor, pool, work: next(pool.imap_unordered(lambda _: work(), [1])),
}


@pytest.mark.parametrize("ask", THREADS.values(), ids=THREADS)
def test_a_thread_belongs_to_the_request_that_started_it(ask: Ask) -> None:
    assert ask_as("r-1", ask) == "r-1"
    assert ask(own_id) == ""


@pytest.mark.parametrize("ask", POOLS.values(), ids=POOLS)
def test_a_pools_thread_belongs_to_the_request_whose_work_it_does(ask: Any) -> None:
    """Also where a request has made the pool, or its thread; it has one."""
    executor = ThreadPoolExecutor(1)
    pool = ask_as("maker", lambda _: ThreadPool(1))
    work = partial(ask, executor, pool)
    assert [ask_as("r-1", work), ask_as("r-2", work), work(own_id)] == ["r-1", "r-2", ""]
    pool.terminate()
    executor.shutdown()


def test_two_requests_at_once_share_a_pool_and_keep_their_ids() -> None:
    both = threading.Barrier(2, timeout=LIMIT_S)

    def meet() -> str:
        both.wait()
        return own_id()

    with ThreadPoolExecutor(2) as executor:
        futures = [ask_as(name, lambda work: executor.submit(work), meet) for name in ("a", "b")]
        assert [future.result(LIMIT_S) for future in futures] == ["a", "b"]


def test_a_thread_that_outlives_its_request_still_belongs_to_it() -> None:
    over = threading.Event()
    found: list[str] = []

    def work() -> None:
        over.wait(LIMIT_S)
        found.append(own_id())

    def start(work: Callable[[], Any]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    thread = ask_as("r-1", start, work)
    over.set()
    thread.join(LIMIT_S)
    assert found == ["r-1"]


def test_what_a_thread_starts_belongs_to_the_same_request() -> None:
    ask = THREADS["thread"]
    assert ask_as("r-1", ask, lambda: ask(own_id)) == "r-1"


async def test_an_executor_of_ones_own_and_anyios_threads_carry_the_request() -> None:
    request_context.set(RequestContext("r-1"))
    with ThreadPoolExecutor(1) as executor:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, own_id) == "r-1"
        assert await anyio.to_thread.run_sync(own_id) == "r-1"
        request_context.set(RequestContext("r-2"))
        assert await loop.run_in_executor(executor, own_id) == "r-2"
        assert await anyio.to_thread.run_sync(own_id) == "r-2"


def test_what_nobody_catches_is_told_within_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(own_id()))

    def start(work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(LIMIT_S)

    ask_as("r-1", start, lambda: 1 / 0)
    assert found == ["r-1"]


def test_errors_and_results_are_as_they_were() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ZeroDivisionError):
        ask_as("r-1", lambda work: executor.submit(work).result(LIMIT_S), lambda: 1 / 0)
    thread = threading.Thread(target=own_id)
    ask_as("r-1", lambda _: thread.start())
    thread.join(LIMIT_S)
    with pytest.raises(RuntimeError, match="once"):
        ask_as("r-1", lambda _: thread.start())
    assert "run" not in vars(thread)


def test_undone_nothing_is_left() -> None:
    names = [(threading.Thread, "start"), (ThreadPoolExecutor, "submit"), (ThreadPool, "map")]
    before = [getattr(*name) for name in names]
    undo = carry_into_threads()
    assert all(getattr(*name) is not was for name, was in zip(names, before, strict=True))
    undo()
    assert [getattr(*name) for name in names] == before
