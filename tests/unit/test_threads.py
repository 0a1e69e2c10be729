"""The threads that run blocking code."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from serve.replica.threads import HandlerThreads

variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
async def make() -> AsyncIterator[Callable[[int], HandlerThreads]]:
    """Makes threads that end with the test."""
    made: list[HandlerThreads] = []

    def make_threads(count: int) -> HandlerThreads:
        made.append(HandlerThreads(count))
        return made[-1]

    yield make_threads
    for threads in made:
        threads.stop()


Make = Callable[[int], HandlerThreads]


async def test_a_function_runs_in_another_thread_named_for_what_it_does(make: Make) -> None:
    thread = await make(1).run(threading.current_thread)
    assert (thread is threading.current_thread(), thread.name, thread.daemon) == (
        False,
        "handler",
        True,
    )


async def test_arguments_go_in_and_the_result_comes_out(make: Make) -> None:
    assert await make(1).run(divmod, 7, 2) == (3, 1)


async def test_an_exception_belongs_to_who_awaits_it(make: Make) -> None:
    threads = make(1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 1, 0)
    assert await threads.run(abs, -1) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_not_even_an_exit_ends_the_thread(make: Make, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    threads = make(1)
    future = threads.run(leave)
    await asyncio.wait([future])
    assert isinstance(future.exception(), kind)
    assert await threads.run(abs, -1) == 1


async def test_stop_iteration_which_no_future_can_hold_becomes_a_runtime_error(make: Make) -> None:
    with pytest.raises(RuntimeError, match="the end"):
        await make(1).run(_stop, "the end")


def _stop(text: str) -> None:
    raise StopIteration(text)


async def test_context_variables_are_carried_in(make: Make) -> None:
    threads = make(1)
    variable.set("from the caller")
    assert await threads.run(variable.get) == "from the caller"


async def test_each_call_sees_the_context_it_was_made_in_and_leaves_no_trace(make: Make) -> None:
    threads = make(1)
    variable.set("first")
    first = threads.run(variable.set, "changed inside")
    variable.set("second")
    second = threads.run(variable.get)
    await first
    assert await second == "second"
    assert variable.get() == "second"


async def test_one_thread_runs_one_call_at_a_time_in_order(make: Make) -> None:
    threads, order = make(1), []
    busy = threading.Lock()

    def work(number: int) -> None:
        assert busy.acquire(blocking=False), "two at once"
        order.append(number)
        busy.release()

    await asyncio.gather(*(threads.run(work, number) for number in range(50)))
    assert order == list(range(50))


async def test_so_many_calls_run_at_once_as_there_are_threads(make: Make) -> None:
    meeting = threading.Barrier(3, timeout=10)
    threads = make(3)
    await asyncio.gather(*(threads.run(meeting.wait) for _ in range(3)))


async def test_the_loop_goes_on_while_a_function_blocks(make: Make) -> None:
    release = threading.Event()
    future = make(1).run(release.wait, 10)
    await asyncio.sleep(0)
    assert not future.done()
    release.set()
    assert await future


async def test_a_call_that_is_cancelled_before_its_turn_never_runs(make: Make) -> None:
    threads, ran, release = make(1), [], threading.Event()
    first = threads.run(release.wait, 10)
    given_up = threads.run(ran.append, "given up")
    given_up.cancel()
    release.set()
    await first
    await threads.run(ran.append, "next")
    assert ran == ["next"]


async def test_the_result_of_a_call_that_is_cancelled_meanwhile_is_dropped(make: Make) -> None:
    threads, begun, release = make(1), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        release.wait(10)
        return "too late"

    future = threads.run(work)
    while not begun.is_set():
        await asyncio.sleep(0.001)
    future.cancel()
    release.set()
    assert await threads.run(abs, -1) == 1
    assert future.cancelled()


async def test_a_resize_adds_threads(make: Make) -> None:
    meeting = threading.Barrier(2, timeout=10)
    threads = make(1)
    threads.resize(2)
    await asyncio.gather(*(threads.run(meeting.wait) for _ in range(2)))


async def test_a_resize_ends_threads_after_their_work(make: Make) -> None:
    threads = make(2)
    seen = await _meet(threads, 2)
    threads.resize(1)
    ended = next(iter(seen - {await threads.run(threading.current_thread)}))
    while ended.is_alive():
        await asyncio.sleep(0.001)
    (left,) = {await threads.run(threading.current_thread) for _ in range(5)}
    assert left in seen and left is not ended


async def test_stop_ends_every_thread(make: Make) -> None:
    threads = make(2)
    seen = await _meet(threads, 2)
    threads.stop()
    for thread in seen:
        while thread.is_alive():
            await asyncio.sleep(0.001)


async def _meet(threads: HandlerThreads, count: int) -> set[threading.Thread]:
    meeting = threading.Barrier(count, timeout=10)

    def work() -> threading.Thread:
        meeting.wait()
        return threading.current_thread()

    return set(await asyncio.gather(*(threads.run(work) for _ in range(count))))


async def test_an_idle_thread_keeps_nothing_of_the_last_call_alive(make: Make) -> None:
    class Big: ...

    def work(big: Any) -> None: ...

    threads, big = make(1), Big()
    reference = weakref.ref(big)
    future = threads.run(work, big)
    await future
    del big, future
    while reference() is not None:  # the thread may be between its work and its next wait
        await asyncio.sleep(0.001)


async def test_no_finished_call_is_forgotten_when_many_finish_at_once(make: Make) -> None:
    threads = make(4)
    for _ in range(20):
        results = asyncio.gather(*(threads.run(abs, -number) for number in range(100)))
        assert await asyncio.wait_for(results, 60) == list(range(100))
