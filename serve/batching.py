"""Batches: the marker `accept_batch`, and the decorator `batch`."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from serve.batch_queue import BatchQueue

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
