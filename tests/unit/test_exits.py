"""A loop in a thread, as Ray runs a replica's, goes on after an exit: in the same thread."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from serve.errors import RayServeException
from serve.replica.exits import outlive_exits
from serve.replica.lifespan import Lifespan

LIMIT_S = 60


class LoopInThread:
    """A loop that a thread runs with `run_forever`, and nothing around it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.told: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.told.append(context))
        self.thread = threading.Thread(target=lambda: loop.run_forever(), daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT_S)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()
        self.loop.close()


async def keep() -> None:
    outlive_exits()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def kept(request: pytest.FixtureRequest) -> Iterator[LoopInThread]:
    before = threading.excepthook
    thread = LoopInThread(request.param())
    thread.run(keep())
    yield thread
    thread.end()
    threading.excepthook = before


async def leave(kind: type[BaseException], before: Callable[[], object] = lambda: None) -> None:
    before()
    raise kind("no thanks")


async def current_thread() -> threading.Thread:
    return threading.current_thread()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_who_awaits_a_task_gets_its_exit_and_the_loop_goes_on(
    kept: LoopInThread, kind: type[BaseException]
) -> None:
    async def wait_for_task() -> str:
        with pytest.raises(kind, match="no thanks"):
            await asyncio.create_task(leave(kind))
        return "seen"

    for _ in range(3):
        assert kept.run(wait_for_task()) == "seen"
        assert kept.run(current_thread()) is kept.thread
    assert kept.told == []


def test_an_exit_in_a_callback_goes_to_the_loops_exception_handler(kept: LoopInThread) -> None:
    for code in range(3):
        kept.loop.call_soon_threadsafe(sys.exit, code)
        assert kept.run(current_thread()) is kept.thread
    assert [context["exception"].code for context in kept.told] == [0, 1, 2]
    assert all("the event loop goes on" in context["message"] for context in kept.told)


def test_the_other_tasks_of_the_loop_do_not_notice(kept: LoopInThread) -> None:
    async def go_on() -> int:
        done = asyncio.Event()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turn())
        for _ in range(10):
            await asyncio.gather(leave(SystemExit), return_exceptions=True)
        seen = turns
        while turns == seen:
            await asyncio.sleep(0)
        done.set()
        await other
        return turns

    assert kept.run(go_on()) > 0


def test_what_is_raised_later_has_nothing_to_do_with_an_exit(kept: LoopInThread) -> None:
    async def fail() -> BaseException | None:
        with pytest.raises(ValueError, match="later") as caught:
            raise ValueError("later")
        return caught.value.__context__

    for _ in range(2):
        kept.loop.call_soon_threadsafe(sys.exit)
        assert kept.run(fail()) is None


def test_later_exits_keep_nothing_of_their_requests_alive(kept: LoopInThread) -> None:
    class Body:
        pass

    async def ask() -> weakref.ref[Body]:
        body = Body()
        await asyncio.gather(leave(SystemExit, lambda: body), return_exceptions=True)
        return weakref.ref(body)

    kept.run(ask())
    later = [kept.run(ask()) for _ in range(3)][:-1]
    gc.collect()
    assert [reference() for reference in later] == [None, None]


def test_another_threads_exception_is_for_the_hook_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(str(args.exc_value)))
    kept = LoopInThread(asyncio.new_event_loop())
    kept.run(keep())
    kept.run(keep())  # a second time changes nothing

    def fail() -> None:
        raise ValueError("of another thread")

    other = threading.Thread(target=fail)
    other.start()
    other.join(LIMIT_S)
    assert seen == ["of another thread"]
    kept.end()


def test_a_hook_that_users_set_later_is_called_for_their_threads_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    kept = LoopInThread(asyncio.new_event_loop())
    kept.run(keep())
    threading.excepthook = lambda args: None
    kept.run(keep())
    kept.loop.call_soon_threadsafe(sys.exit)
    assert kept.run(current_thread()) is kept.thread
    kept.end()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_at_the_start_up_of_an_application_is_its_failure(
    kept: LoopInThread, kind: type[BaseException]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise kind("no licence")

    with pytest.raises(RayServeException, match=f"start-up failed: {kind.__name__}: no licence"):
        kept.run(Lifespan(app).start())
