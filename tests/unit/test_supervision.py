"""What is meant to run for ever does, and each of its failures is told and counted."""

from __future__ import annotations

import ast
import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from observability.instrument import supervision
from observability.instrument.origin import set_origin
from observability.instrument.supervision import (
    CALM_S,
    Troubles,
    in_thread,
    keep_running,
    keep_thread_running,
    pause_after,
    run_all,
    watch_task,
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSES_S", (0.0,))


def counted(troubles: Troubles) -> dict[str, object]:
    [family] = troubles.collect()
    return {labels[-1]: value for labels, value in family.values.items()}


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == logging.ERROR]


async def test_a_task_that_fails_is_begun_again_and_told_with_its_name_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    troubles, begun = Troubles(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise OSError("no descriptors")

    await keep_running("sweep", work, troubles)
    assert (begun, counted(troubles)) == (3, {"sweep": 2})
    (told,) = errors(caplog)  # twice the same reason
    assert told.message == "sweep failed: OSError: no descriptors. It is begun again in 0 s."
    assert told.exc_info is not None and told.exc_info[2] is not None


def test_a_thread_that_fails_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    troubles, begun, pauses = Troubles(), threading.Semaphore(0), list[float]()
    is_over = threading.Event()

    def work() -> None:
        begun.release()
        if not is_over.is_set():
            raise ValueError("a")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            is_over.set()

    thread = threading.Thread(target=keep_thread_running, args=("export", work, pause, troubles))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert counted(troubles) == {"export": 3}
    assert len(errors(caplog)) == 1


async def test_a_task_that_is_cancelled_has_not_failed() -> None:
    troubles = Troubles()
    task = asyncio.create_task(keep_running("watch", asyncio.Event().wait, troubles))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert counted(troubles) == {"watch": 0}


@pytest.mark.parametrize(("is_cancelled", "count"), [(False, {"once": 1}), (True, {})])
async def test_the_failure_of_work_done_once_is_told(
    is_cancelled: bool, count: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch_task("once", future, troubles)
    if is_cancelled:
        future.cancel()
    else:
        future.set_exception(ZeroDivisionError("x"))
    await asyncio.sleep(0)
    assert (counted(troubles), len(errors(caplog))) == (count, len(count))


def test_each_reason_is_an_error_once_until_all_was_well(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    troubles = Troubles(clock)
    for reason in ("a", "b", "a", "b"):
        troubles.tell("t", ValueError(reason))
    assert len(errors(caplog)) == 2
    troubles.clear("t")
    troubles.tell("t", ValueError("a"))
    assert len(errors(caplog)) == 3
    clock.now_s += CALM_S
    troubles.tell("t", ValueError("a"))
    assert len(errors(caplog)) == 4
    assert counted(troubles) == {"t": 6}


def over_by_clearing(troubles: Troubles, clock: Clock) -> None:
    troubles.clear("t")


def over_by_calm(troubles: Troubles, clock: Clock) -> None:
    clock.now_s += CALM_S


@pytest.mark.parametrize("end", [over_by_clearing, over_by_calm])
def test_what_fails_at_present_is_told_with_its_time_and_last_reason(
    end: Callable[[Troubles, Clock], None],
) -> None:
    clock = Clock()
    troubles = Troubles(clock)
    troubles.expect("t")
    assert troubles.describe() == ""
    troubles.tell("t", ValueError("a"))
    since = troubles.current()[0].since
    clock.now_s += CALM_S - 1
    troubles.tell("t", ValueError("b"))
    assert troubles.describe() == f"t is failing since {since}: ValueError: b"
    end(troubles, clock)
    assert troubles.describe() == ""


def test_the_metric_says_whose_tasks_they_are() -> None:
    troubles = Troubles()
    troubles.expect("t")
    set_origin({"component": "serve", "backend": "b", "replica": "b#1"})
    try:
        [family] = troubles.collect()
        assert dict(family.values) == {("serve", "b", "b#1", "t"): 0.0}
    finally:
        set_origin({})


def test_pauses_grow_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSES_S", (0.0, 1.0, 5.0))
    assert [pause_after(failures) for failures in range(5)] == [0.0, 1.0, 5.0, 5.0, 5.0]


async def test_each_last_step_is_done_whatever_became_of_those_before() -> None:
    troubles, done = Troubles(), list[str]()

    async def fail() -> None:
        raise OSError("gone")

    steps = (in_thread(lambda: done.append("a")), fail, in_thread(lambda: done.append("b")))
    await run_all("end", *steps, troubles=troubles)
    assert (done, counted(troubles)) == (["a", "b"], {"end": 1})


# Whatever is started has somebody who hears of its failure.

ROOT = Path(__file__).parents[2]
SEEN_OTHERWISE = {
    "serve/handle/handle.py:_send": "the caller's own task",
    "serve/handle/handle.py:_begin_first": "the caller's own task",
    "serve/handle/registry.py:open_registry": "followed by a future",
    "serve/handle/registry.py:_renew_secret": "awaited there",
    "serve/replica/protocol.py:_start": "answers its caller whatever happens",
    "serve/transport/served.py:_start": "answers its caller whatever happens",
    "serve/transport/loopthread.py:__init__": "a loop; what runs on it is followed by a future",
    "serve/transport/loopthread.py:_take": "followed by a future",
    "serve/watcher.py:run": "awaited there",
    "serve/batch_queue.py:put": "answers its callers whatever happens",
    "serve/replica/inbox.py:start_watch": "reads for a request that waits for it",
    "serve/replica/lifespan.py:_ask": "awaited there",
    "serve/ingress/master.py:launch": "a process's exit code",
    "serve/controller/executor.py:_spawn": "made by _act and _tend",
    "serve/owner.py:_start_timer": "ends the process",
    "observability/trail/streams.py:_start_thread": "a command's, which is told their problems",
}
STARTS = {"create_task", "ensure_future", "Thread", "Timer"}
SUPERVISED = {"keep_running", "keep_thread_running", "watch_task"}


def starts_of(tree: ast.AST) -> Iterator[str]:
    """Functions that start a task or a thread and name no supervisor."""
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        if names & SUPERVISED:
            continue
        calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
        if any(isinstance(call, ast.Attribute) and call.attr in STARTS for call in calls):
            yield function.name


def test_whatever_is_started_is_supervised_or_has_a_reason() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{name}"
        for folder in ("serve", "observability")
        for path in (ROOT / folder).rglob("*.py")
        for name in starts_of(ast.parse(path.read_text()))
    }
    assert found == set(SEEN_OTHERWISE)


def test_a_start_without_a_supervisor_would_be_found() -> None:
    assert list(starts_of(ast.parse("def f():\n    asyncio.create_task(g())"))) == ["f"]
    supervised = "def f():\n    asyncio.create_task(keep_running('t', g))"
    assert list(starts_of(ast.parse(supervised))) == []
