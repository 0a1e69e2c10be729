"""Start-up and shutdown events of a user's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from serve.errors import RayServeException
from serve.replica.lifespan import Lifespan


def make_app(events: list[str]) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        events.append("up")
        yield {"model": "loaded"}
        events.append("down")

    return Starlette(lifespan=lifespan)


async def test_start_and_stop_run_the_applications_events_once() -> None:
    events: list[str] = []
    lifespan = Lifespan(make_app(events))
    await lifespan.start()
    assert events == ["up"]
    await lifespan.stop()
    assert events == ["up", "down"]
    await lifespan.stop()
    assert events == ["up", "down"]


async def test_what_the_start_up_yields_is_the_state() -> None:
    lifespan = Lifespan(make_app([]))
    await lifespan.start()
    assert lifespan.state == {"model": "loaded"}
    await lifespan.stop()


async def test_a_start_up_that_fails_is_an_error_with_the_applications_own_words() -> None:
    @asynccontextmanager
    async def fail(app: Starlette) -> AsyncIterator[None]:
        raise ValueError("no such model")
        yield

    with pytest.raises(RayServeException, match=r"(?s)start-up failed:.*no such model"):
        await Lifespan(Starlette(lifespan=fail)).start()


async def test_a_start_up_that_fails_without_a_word_is_an_error_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed"})

    with pytest.raises(RayServeException, match="start-up failed: no message given"):
        await Lifespan(app).start()


async def test_an_application_that_knows_no_lifespan_may_raise() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    lifespan = Lifespan(app)
    await lifespan.start()
    await lifespan.stop()


async def test_an_application_that_knows_no_lifespan_may_return() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    lifespan = Lifespan(app)
    await lifespan.start()
    await lifespan.stop()


async def test_a_lifespan_that_was_never_started_can_be_stopped() -> None:
    await Lifespan(make_app([])).stop()


async def test_the_application_lives_between_start_and_stop() -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.current_task())
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app)
    await lifespan.start()
    (task,) = tasks
    assert task is not None and not task.done()
    await lifespan.stop()
    await asyncio.wait([task], timeout=5)
    assert task.done()


async def test_an_application_that_goes_on_after_its_shutdown_is_ended() -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            await asyncio.Event().wait()
        finally:
            ended.set()

    lifespan = Lifespan(app)
    await lifespan.start()
    await lifespan.stop()
    await asyncio.wait_for(ended.wait(), 60)
