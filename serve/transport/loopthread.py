"""One event loop in a daemon thread of the process, for callers that have none of their own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

Work: TypeAlias = "Callable[[], object] | Coroutine[Any, Any, Any]"

_STOP_TIMEOUT_S = 2.0


class SyncFuture(concurrent.futures.Future[Any]):
    """What came of a submission, for another thread. Cancelling it cancels the work on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._inner: asyncio.Future[Any] | None = None

    def cancel(self) -> bool:
        """Cancels the work; true unless it is done."""
        cancelled = super().cancel()
        if cancelled:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the work gone with it
                self._loop.call_soon_threadsafe(self._cancel_inner)
        return cancelled

    def _cancel_inner(self) -> None:
        if self._inner is not None:
            self._inner.cancel()

    def _follow(self, inner: asyncio.Future[Any]) -> None:
        self._inner = inner
        inner.add_done_callback(self._settle)

    def _settle(self, inner: asyncio.Future[Any]) -> None:
        if inner.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        error = inner.exception()  # also where nobody waits any more: it counts as retrieved
        if not self.set_running_or_notify_cancel():
            return
        if error is not None:
            self.set_exception(error)
        else:
            self.set_result(inner.result())


class LoopThread:
    """A daemon thread with an event loop: uvloop's where installed. See `get_loop_thread`."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = _new_loop()
        self._submitted: deque[tuple[Work, SyncFuture]] = deque()
        self._woken = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="serve-calls", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        contextvars.Context().run(self._thread.start)  # it serves all, not who asked first

    def submit(self, work: Work) -> SyncFuture:
        """Has the loop do some work; any thread may call it, many calls cost one wake-up.

        Args:
            work: a coroutine, or a callable that is called on the loop; if it returns an awaitable,
                that is awaited.

        Returns:
            The outcome. Waiting for it on the loop's own thread would never end.

        Raises:
            RuntimeError: the thread was stopped, or belongs to the process that forked this one.
        """
        future = SyncFuture(self.loop)
        self._submitted.append((work, future))
        # Appended first, looked second; `_take` does the reverse: no submission is left unseen.
        if not self._woken:
            self._woken = True
            try:
                if self._stopped or self.pid != os.getpid():
                    raise RuntimeError("the loop thread has stopped")
                self.loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                self._woken = False
                self._refuse_submitted()
                raise
        return future

    def _take(self) -> None:
        self._woken = False
        while self._submitted:
            work, future = self._submitted.popleft()
            if future.cancelled() and asyncio.iscoroutine(work):
                work.close()
                continue
            try:
                outcome = work() if callable(work) else work
                if future.cancelled():  # what is begun is cancelled as if it had been later
                    if asyncio.isfuture(outcome):
                        outcome.cancel()
                elif asyncio.isfuture(outcome) or isinstance(outcome, Awaitable):
                    future._follow(asyncio.ensure_future(outcome, loop=self.loop))
                elif future.set_running_or_notify_cancel():
                    future.set_result(outcome)
            except Exception as error:  # noqa: BLE001 - task boundary: it belongs to who submitted
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)

    def _refuse_submitted(self) -> None:
        while self._submitted:
            work, future = self._submitted.popleft()
            if asyncio.iscoroutine(work):
                work.close()
            if future.cancel():
                future.set_running_or_notify_cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._stopped = True
            self._woken = False  # after it: whoever still read True has appended before
            self._refuse_submitted()
            self.loop.run_until_complete(_end_tasks(self.loop))
            self.loop.close()

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Cancels the loop's tasks, closes it and ends the thread.

        Args:
            timeout_s: how long to wait for the thread, seconds. A stuck one dies with the process.
        """
        if self.pid != os.getpid() or self._stopped:
            return
        with contextlib.suppress(RuntimeError):  # closed in this moment
            self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether it takes submissions in this process."""
        return self.pid == os.getpid() and not self._stopped


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_TIMEOUT_S / 2)
    await loop.shutdown_asyncgens()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _ProcessThread:
    """The process's one loop thread, and what a fork left of the parent's."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: LoopThread | None = None
        self.abandoned: list[LoopThread] = []  # closing the parent's loop here would disturb it
        self.at_exit_is_set = False

    def get(self) -> LoopThread:
        with self.lock:
            if self.thread is None or not self.thread.alive:
                if not self.at_exit_is_set:
                    self.at_exit_is_set = True
                    atexit.register(self.stop)
                    if hasattr(os, "register_at_fork"):
                        os.register_at_fork(after_in_child=self.forget)
                self.thread = LoopThread()
                self.thread.start()
            return self.thread

    def forget(self) -> None:
        self.lock = threading.Lock()  # whoever held it does not exist in this process
        if self.thread is not None:
            self.abandoned.append(self.thread)
        self.thread = None

    def stop(self) -> None:
        if self.thread is not None:
            self.thread.stop()


_process = _ProcessThread()


def get_loop_thread() -> LoopThread:
    """The process's loop thread, started at its first use; a forked process gets its own."""
    thread = _process.thread
    if thread is not None and thread.alive:
        return thread
    return _process.get()
