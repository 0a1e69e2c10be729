"""A task of the user's that calls sys.exit() ends itself, and not the event loop."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import uvloop

from serve.errors import RayServeException
from serve.replica.tasks import contain_exits

ENDS = [SystemExit(3), KeyboardInterrupt()]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a coroutine function on a loop that contains exits."""
    loop = request.param()
    contain_exits(loop)
    yield lambda work: loop.run_until_complete(work())
    loop.close()


Run = Callable[[Callable[[], Awaitable[Any]]], Any]


async def end(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_a_task_that_exits_fails_and_the_loop_goes_on(run: Run, error: BaseException) -> None:
    async def work() -> str:
        with pytest.raises(
            RayServeException, match=f"A task raised {type(error).__name__}"
        ) as told:
            await asyncio.create_task(end(error))
        assert told.value.__cause__ is error
        await asyncio.sleep(0)
        return "goes on"

    assert run(work) == "goes on"


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_so_does_a_task_that_exits_when_it_is_cancelled(run: Run, error: BaseException) -> None:
    async def work() -> str:
        async def stay() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise error from None

        task = asyncio.create_task(stay())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(RayServeException, match="A task raised"):
            await task
        return "goes on"

    assert run(work) == "goes on"


def test_results_other_exceptions_and_cancellations_are_as_ever(run: Run) -> None:
    async def work() -> None:
        async def give() -> int:
            return 7

        assert await asyncio.create_task(give()) == 7
        with pytest.raises(ValueError, match="bad"):
            await asyncio.create_task(end(ValueError("bad")))
        task = asyncio.create_task(end(SystemExit()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # "never awaited"
            task.cancel()  # before its first step
            with pytest.raises(asyncio.CancelledError):
                await task

    run(work)


def test_a_task_says_its_name_and_state(run: Run) -> None:
    async def work() -> None:
        task = asyncio.create_task(end(SystemExit()), name="mine")
        coroutine: Any = task.get_coro()
        assert task.get_name() == "mine"
        assert "end()" in repr(task)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_SUSPENDED
        with pytest.raises(RayServeException):
            await task

    run(work)


def test_task_groups_of_anyio_end_as_ever(run: Run) -> None:
    async def work() -> str:
        with anyio.move_on_after(0.01):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 60)
        return "goes on"

    assert run(work) == "goes on"
