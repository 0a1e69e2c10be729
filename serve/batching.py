"""Batches: the marker `accept_batch`, the decorator `batch`, and the queue under both."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from observability.instrument import tracing
from observability.instrument.context import RequestContext, join_contexts, request_context
from serve.errors import RayServeException

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "_serve_accept_batch"


def accept_batch(f: F) -> F:
    """Mark a backend as one that takes a list of requests and returns a list of answers, in order.

    Example:
        >>> @serve.accept_batch
        ... def double(requests):
        ...     return [2 * request.data for request in requests]
        >>> serve.create_backend("double", double, config={"max_batch_size": 8})
    """
    setattr(f, _MARK, True)
    return f


def accepts_batches(f: object) -> bool:
    """Whether a callable is marked with `accept_batch`."""
    return bool(getattr(f, _MARK, False))


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


_Entry = tuple[Any, "asyncio.Future[Any]", RequestContext | None]


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

    def put(self, item: object) -> asyncio.Future[Any]:
        """Add an item; the future gives its answer, or the whole batch's exception."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._items.append((item, future, request_context.get()))
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
            if not entry[1].done():  # its caller gave up
                batch.append(entry)
        return batch

    async def _answer(self, batch: list[_Entry]) -> None:
        try:
            # This task goes on from batch to batch: what is said in one is not its first request's.
            tracing.enter(join_contexts([context for _, _, context in batch]))
            result = await self._run([item for item, _, _ in batch])
            answers = check_batch_result(result, len(batch))
        except GeneratorExit:  # the loop has ended: nobody waits
            raise
        # Task boundary: whatever it is, sys.exit() included, it is the callers' own, and whoever
        # got no answer would wait for ever.
        except BaseException as error:  # noqa: BLE001
            # A future refuses this one, as a coroutine does.
            failure = RuntimeError(str(error)) if isinstance(error, StopIteration) else error
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(failure)
            return
        for (_, future, _), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def batch(
    _func: Callable[..., Any] | None = None,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.0,
) -> Any:
    """Turn an `async` function or method that takes a list into one that takes an item.

    Calls that arrive together run as one batch. An exception goes to every caller of its batch.

    Args:
        _func: the function, when used without parentheses.
        max_batch_size: most items of a batch, at least 1.
        batch_wait_timeout_s: how long the first item waits for others, seconds.

    Raises:
        TypeError: not an `async` function, or an argument of the wrong type.
        ValueError: an argument out of range.
    """
    _check_batch_arguments(_func, max_batch_size, batch_wait_timeout_s)

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        _check_batch_function(func)
        takes_self = "." in func.__qualname__ and "<locals>" not in func.__qualname__.split(".")[-2]
        queues = _Queues(func, max_batch_size, batch_wait_timeout_s)

        @functools.wraps(func)
        async def call(*args: Any, **kwargs: Any) -> Any:
            owner, item = _split_arguments(func.__name__, args, kwargs, takes_self)
            return await queues.of(owner).put(item)

        return call

    return decorate if _func is None else decorate(_func)


class _Queues:
    """One queue for each object whose method is batched, gone with it; one for a function."""

    def __init__(
        self, func: Callable[..., Any], max_batch_size: int, wait_timeout_s: float
    ) -> None:
        self._func = func
        self._options = (max_batch_size, wait_timeout_s)
        self._of_owner: dict[int, BatchQueue] = {}  # by id: owners may be equal, or have no hash
        self._plain: BatchQueue | None = None

    def of(self, owner: object | None) -> BatchQueue:
        if owner is None:
            if self._plain is None:
                self._plain = BatchQueue(self._func, *self._options)
            return self._plain
        key = id(owner)
        queue = self._of_owner.get(key)
        if queue is None:
            # The queue must not keep its owner alive.
            reference = weakref.ref(owner, lambda _: self._of_owner.pop(key, None))
            queue = BatchQueue(lambda items: self._func(reference(), items), *self._options)
            self._of_owner[key] = queue
        return queue

    def __reduce__(self) -> tuple[type[_Queues], tuple[Any, ...]]:
        # A decorated class is shipped to its replicas before it was ever called: queues stay
        # behind.
        return _Queues, (self._func, *self._options)


def _check_batch_arguments(func: object, max_batch_size: object, wait_timeout_s: object) -> None:
    if func is not None and not callable(func):
        raise TypeError(f"@serve.batch takes a function. Got {type(func).__name__}: {func!r}.")
    if isinstance(max_batch_size, float) and max_batch_size.is_integer():
        max_batch_size = int(max_batch_size)
    if not isinstance(max_batch_size, int) or isinstance(max_batch_size, bool):
        raise TypeError(f"max_batch_size must be integer >= 1. Got {max_batch_size!r}.")
    if max_batch_size < 1:
        raise ValueError(f"max_batch_size must be an integer >= 1. Got {max_batch_size}.")
    if not isinstance(wait_timeout_s, (int, float)) or isinstance(wait_timeout_s, bool):
        raise TypeError(f"batch_wait_timeout_s must be a float >= 0. Got {wait_timeout_s!r}.")
    if wait_timeout_s < 0:
        raise ValueError(f"batch_wait_timeout_s must be a float >= 0. Got {wait_timeout_s}.")


def _check_batch_function(func: Callable[..., Any]) -> None:
    if not callable(func):
        raise TypeError(f"@serve.batch takes a function. Got {type(func).__name__}: {func!r}.")
    if not inspect.iscoroutinefunction(func):
        raise TypeError(
            f"Functions decorated with @serve.batch must be 'async def'. '{func.__name__}' is not; "
            "for a blocking backend use @serve.accept_batch."
        )


def _split_arguments(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], takes_self: bool
) -> tuple[object | None, object]:
    expected = 2 if takes_self else 1
    if kwargs:
        raise ValueError(
            f"'{name}' is decorated with @serve.batch and takes one positional argument. Got "
            f"keyword arguments {sorted(kwargs)}."
        )
    if len(args) != expected:
        raise ValueError(
            f"'{name}' is decorated with @serve.batch and takes one positional argument. Got "
            f"{len(args) - expected + 1}."
        )
    return (args[0], args[1]) if takes_self else (None, args[0])
