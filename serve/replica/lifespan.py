"""The lifespan of a user's ASGI application: its start-up and shutdown events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from starlette.types import ASGIApp, Message

from observability.instrument.supervision import watch_task
from serve.errors import RayServeException

SHUTDOWN_S = 10.0
LIFESPAN = "lifespan of the application"


class Lifespan:
    """Runs one application's lifespan; an application that knows none is left alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.state: dict[str, Any] = {}

    async def start(self) -> None:
        """Run the start-up events. RayServeException when the application fails or exits there."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.get_running_loop().create_task(
            self._app(scope, self._inbox.get, self._answers.put)  # type: ignore[arg-type]
        )
        answer = await self._ask("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            raise RayServeException(
                f"The application's start-up failed: {answer.get('message') or 'no message given'}"
            )
        if answer is not None:  # it lasts until the shutdown
            watch_task(LIFESPAN, self._task)
        elif isinstance(error := self._task.exception(), (SystemExit, KeyboardInterrupt)):
            raise RayServeException(
                f"The application's start-up failed: {type(error).__name__}: {error}"
            ) from error

    async def stop(self) -> None:
        """Run the shutdown events, if the application is there to run them."""
        if self._task is None or self._task.done():
            return
        with contextlib.suppress(asyncio.TimeoutError):  # it had its time; the process ends now
            await asyncio.wait_for(self._ask("lifespan.shutdown"), SHUTDOWN_S)
        self._task.cancel()

    async def _ask(self, kind: str) -> Message | None:
        """Send an event; the answer, or None when the application ended without one."""
        assert self._task is not None
        self._inbox.put_nowait({"type": kind})
        answer = asyncio.get_running_loop().create_task(self._answers.get())
        await asyncio.wait({self._task, answer}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        self._task.exception()  # ASGI lets an application raise at a scope it does not know
        return None
