"""The threads that run blocking code for an event loop.

A queue and bare threads instead of `loop.run_in_executor`: half its cost a call, on the request's
path.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

from observability.instrument.supervision import keep_thread_running

THREAD_NAME = "handler"

_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class HandlerThreads:
    """A fixed number of threads; each call runs in the context it was made in.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        self._count = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_woken = False
        self._loop = asyncio.get_running_loop()
        self.resize(count)

    def resize(self, count: int) -> None:
        """Have that many threads; those too many end after what they do now."""
        for _ in range(self._count, count):
            thread = threading.Thread(
                target=keep_thread_running,
                args=(THREAD_NAME, self._work),
                name=THREAD_NAME,
                daemon=True,
            )
            thread.start()
        for _ in range(count, self._count):
            self._jobs.put(None)
        self._count = count

    def run(self, function: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Run a function in a thread. A future that is cancelled before its turn is never run."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put((future, copy_context().run, (function, *args)))
        return future

    def stop(self) -> None:
        """End every thread after what it does now."""
        self.resize(0)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run_job(*job)
            del job  # keep no request alive until the next one comes

    def _run_job(
        self, future: asyncio.Future[Any], function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if future.cancelled():
            return
        result, error = None, None
        try:
            result = function(*args)
        except BaseException as raised:  # noqa: BLE001 - it belongs to who awaits the future
            error = RuntimeError(str(raised)) if isinstance(raised, StopIteration) else raised
        self._done.append((future, result, error))
        # One wake-up for all that finish meanwhile. The mark is set after the append here and taken
        # away before the reading there: whichever way the two interleave, no result is left behind.
        if not self._is_woken and not self._loop.is_closed():
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        self._is_woken = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
