"""What is raised in a task of the user's stays there: `sys.exit()` would end the event loop.

asyncio lets SystemExit and KeyboardInterrupt through a task into the loop, which then stops: every
request of the replica would hang for ever. A handler's own exception is caught on its way; that of
a task it made (Starlette makes one for each streamed answer) is caught here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from serve.errors import RayServeException

_CATCH_ALL = frozenset({"RequestResponseCycle.run_asgi", "ServedConnection._answer"})
"""One for each request, and nothing leaves them: they are spared the microsecond."""


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Let no task that is made on a loop from now on end the loop.

    Such a task fails with a RayServeException instead, which says what was raised.
    """
    loop.set_task_factory(_make_task)


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    if getattr(coroutine, "__qualname__", "") not in _CATCH_ALL:
        coroutine = _Contained(coroutine)
    return asyncio.Task(coroutine, loop=loop, **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that ends with an Exception where the inner one would end the loop.

    No `async def` around it: a task that is cancelled before its first step would leave the inner
    coroutine "never awaited".
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        """One step (PEP 342)."""
        try:
            return self._inner.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _as_exception(error) from error

    def throw(self, *error: Any) -> Any:
        """One step that begins with an exception (PEP 342)."""
        try:
            return self._inner.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise _as_exception(raised) from raised

    def close(self) -> None:
        """End it (PEP 342)."""
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # its name and state, for who looks at the task


def _as_exception(error: BaseException) -> RayServeException:
    told = RayServeException(f"A task raised {type(error).__name__}: {error}")
    return told.with_traceback(error.__traceback__)  # the user's own lines
