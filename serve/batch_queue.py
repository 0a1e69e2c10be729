"""The queue under batches: collects items, runs them together, gives each its answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from observability.instrument import tracing
from observability.instrument.context import RequestContext, join_contexts, request_context
from observability.instrument.waits import own_waits
from serve.errors import QueueTimeoutError, RayServeException


def check_batch_result(result: object, batch_size: int) -> list[Any]:
    """The answers of a batch, one each.

    Raises:
        RayServeException: the result has no order, or another length than the batch.
    """
    if (
        not isinstance(result, Iterable)
        or isinstance(result, (dict, set, frozenset, str, bytes))
        or not hasattr(result, "__len__")
    ):
        raise RayServeException(
            "RayServe expects an ordered iterable object but the replica returned a "
            f"{type(result)}. Return a list with one answer for each request of the batch."
        )
    answers = list(result)
    if len(answers) != batch_size:
        raise RayServeException(
            f"Worker doesn't preserve batch size. The input has length {batch_size} but the "
            f"returned list has length {len(answers)}. Please return a list of results with length "
            "equal to the batch size."
        )
    return answers


class _Entry(NamedTuple):
    """An item that waits, with whoever it is for."""

    item: Any
    future: asyncio.Future[Any]
    context: RequestContext | None
    timer: asyncio.TimerHandle | None


class BatchQueue:
    """Collects items for one event loop and hands them on in batches, one batch at a time.

    Args:
        run: takes the items of a batch, returns their answers in order.
        max_batch_size: most items of a batch.
        wait_timeout_s: how long the first item waits for others, seconds.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Awaitable[object]],
        max_batch_size: int,
        wait_timeout_s: float,
    ) -> None:
        self._run = run
        self.max_batch_size = max_batch_size
        self.wait_timeout_s = wait_timeout_s
        self._items: deque[_Entry] = deque()
        self._full = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many items wait for their batch to begin."""
        return len(self._items)

    def put(self, item: object, limit_s: float | None = None) -> asyncio.Future[Any]:
        """Add an item; the future gives its answer, or the whole batch's exception.

        Args:
            item: it.
            limit_s: if its batch has not begun after so many seconds, the future fails with
                QueueTimeoutError. None: it waits for ever.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        timer = None
        if limit_s is not None:
            timer = loop.call_later(max(0.0, limit_s), self._expire, future)
        own_waits().begin(for_batch=True)
        self._items.append(_Entry(item, future, request_context.get(), timer))
        if len(self._items) >= self.max_batch_size:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return future

    async def _work(self) -> None:
        while self._items:
            await self._fill()
            batch = self._take()
            if batch:
                await self._answer(batch)

    async def _fill(self) -> None:
        if self.wait_timeout_s <= 0 or len(self._items) >= self.max_batch_size:
            return
        self._full.clear()
        with contextlib.suppress(asyncio.TimeoutError):  # then the batch is not full
            await asyncio.wait_for(self._full.wait(), self.wait_timeout_s)

    def _take(self) -> list[_Entry]:
        batch: list[_Entry] = []
        while self._items and len(batch) < self.max_batch_size:
            entry = self._items.popleft()
            if entry.timer is not None:
                entry.timer.cancel()
            if not entry.future.done():  # its caller gave up
                batch.append(entry)
                if entry.context is not None and entry.context.waits is not None:
                    entry.context.waits.end()
        return batch

    def _expire(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(
                QueueTimeoutError(
                    f"No batch began in time: {self.waiting} requests wait for the one before. Add "
                    "replicas, or raise max_batch_size or queue_timeout_s."
                )
            )

    async def _answer(self, batch: list[_Entry]) -> None:
        contexts = [entry.context for entry in batch]
        joined = join_contexts(contexts)
        try:
            # This task goes on from batch to batch: what is said in one is not its first request's.
            tracing.enter(joined)
            result = await self._run([entry.item for entry in batch])
            answers = check_batch_result(result, len(batch))
        except GeneratorExit:  # the loop has ended: nobody waits
            raise
        # Task boundary: whatever it is, sys.exit() included, it is the callers' own, and whoever
        # got no answer would wait for ever.
        except BaseException as error:  # noqa: BLE001
            # A future refuses this one, as a coroutine does.
            failure = RuntimeError(str(error)) if isinstance(error, StopIteration) else error
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(failure)
            return
        finally:
            _share_waits(joined, contexts)
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.future.done():
                entry.future.set_result(answer)


def _share_waits(joined: RequestContext | None, contexts: list[RequestContext | None]) -> None:
    """What the whole batch waited for, a thread, each of its requests has waited for."""
    if joined is None or joined.waits is None:
        return
    for context in contexts:
        if context is not None and context is not joined and context.waits is not None:
            context.waits.thread_s += joined.waits.thread_s
