"""The threads that run blocking code for an event loop.

A queue and bare threads instead of `loop.run_in_executor`: half its cost a call, on the request's
path.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import heapq
import math
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

from observability.instrument.supervision import keep_thread_running
from observability.instrument.waits import Waits
from serve.errors import QueueTimeoutError

THREAD_NAME = "handler"

_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...], "_Turn | None"]


class ContextExecutor(ThreadPoolExecutor):
    """An executor whose functions run in the context they were submitted in.

    As the loop's default one it makes `loop.run_in_executor(None, ...)` part of the request, as
    `asyncio.to_thread` is.
    """

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Run a function in a thread (`concurrent.futures`)."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


class _Turn:
    """A request's turn, taken once: by the thread that runs it, or by the limit of its wait.

    Args:
        waits: hears that the wait is over.
        future: fails when the limit takes it.
    """

    __slots__ = ("_left", "_waits")

    def __init__(self, waits: Waits, future: asyncio.Future[Any]) -> None:
        self._waits = waits
        self._left = [future]

    @property
    def is_taken(self) -> bool:
        """Whether it is not to be had any more."""
        return not self._left

    def take(self) -> asyncio.Future[Any] | None:
        """Its future, the first time. Any thread may call it."""
        try:
            return self._left.pop()
        except IndexError:
            return None

    def begin(self) -> bool:
        """Take it to run; False when it is over."""
        if self.take() is None:
            return False
        self._waits.end()
        return True


class HandlerThreads:
    """A fixed number of threads; each call runs in the context it was made in.

    Args:
        count: threads.
    """

    def __init__(self, count: int) -> None:
        self._count = 0
        self._unfinished = 0
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_woken = False
        self._loop = asyncio.get_running_loop()
        self._limits: list[tuple[float, int, _Turn]] = []
        """Of the turns that nobody had free: a heap of (when it is over, number, turn)."""
        self._limit_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
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

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread now."""
        return self._jobs.qsize()

    def run(self, function: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Run a function in a thread. A future that is cancelled before its turn is never run."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._unfinished += 1
        self._jobs.put((future, copy_context().run, (function, *args), None))
        return future

    def run_request(
        self, function: Callable[..., Any], *args: object, waits: Waits, limit_s: float = math.inf
    ) -> asyncio.Future[Any]:
        """`run` for a request, whose wait is told and has a limit.

        Args:
            function: the handler.
            *args: its arguments.
            waits: hears when the wait begins and ends.
            limit_s: after so many seconds without a thread the future fails with QueueTimeoutError.
        """
        waits.begin(for_batch=False)
        future: asyncio.Future[Any] = self._loop.create_future()
        turn = _Turn(waits, future)
        self._unfinished += 1
        self._jobs.put((future, copy_context().run, (function, *args), turn))
        if self._unfinished > self._count and limit_s < math.inf:  # no thread is free
            self._limit(turn, limit_s)
        return future

    def _limit(self, turn: _Turn, limit_s: float) -> None:
        """Have a turn end after so long. One timer for all: nearly all are taken long before."""
        limits = self._limits
        while limits and limits[0][-1].is_taken:
            heapq.heappop(limits)
        self._limit_count += 1
        heapq.heappush(limits, (self._loop.time() + limit_s, self._limit_count, turn))
        if self._timer is None or limits[0][0] < self._timer_due:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._limits[0][0]
        self._timer = self._loop.call_at(self._timer_due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        limits, now = self._limits, self._loop.time()
        while limits and (limits[0][0] <= now or limits[0][-1].is_taken):
            future = heapq.heappop(limits)[-1].take()
            if future is not None and not future.done():
                future.set_exception(
                    QueueTimeoutError(
                        f"No handler thread was free in time: {self._count} (handler_threads) are "
                        f"busy, {self.waiting} calls wait. Add replicas, or raise handler_threads "
                        "or queue_timeout_s."
                    )
                )
        if limits:
            self._set_timer()

    def stop(self) -> None:
        """End every thread after what it does now."""
        self.resize(0)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._run_job(*job)
            del job  # keep no request alive until the next one comes

    def _run_job(
        self,
        future: asyncio.Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        turn: _Turn | None,
    ) -> None:
        result, error = None, None
        try:
            if not future.cancelled() and (turn is None or turn.begin()):
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
            self._unfinished -= 1
            if future.done():  # cancelled, or its time was over
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
