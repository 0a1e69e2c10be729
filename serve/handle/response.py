"""The answer to a direct call: to be awaited, waited for, or cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from typing import Any

from ray.exceptions import RayTaskError

from serve.errors import RayServeException, describe_error
from serve.transport.failures import RemoteError, mark_remote


class Response:
    """What `handle.call()` gives back at once.

    Args:
        future: an asyncio future of the loop on which the call was made, or a concurrent one when
            it was made outside any loop.
        name: endpoint and method, for errors.
    """

    __slots__ = ("_future", "_name")

    def __init__(
        self, future: asyncio.Future[Any] | concurrent.futures.Future[Any], name: str
    ) -> None:
        self._future = future
        self._name = name

    def __await__(self) -> Generator[Any, None, Any]:
        """The result. An exception of the backend is raised as itself and as RayTaskError."""
        future = self._future
        if isinstance(future, concurrent.futures.Future):
            future = asyncio.wrap_future(future)
        try:
            return (yield from future.__await__())
        except RemoteError as error:
            raise as_task_error(error, self._name) from None

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the result in blocking code.

        Args:
            timeout_s: longest wait, seconds; the call goes on. None: as long as the queue and the
                backend take.

        Raises:
            TimeoutError: no result within `timeout_s`.
            RayServeException: called in a coroutine, where it would wait for itself.
        """
        future = self._future
        if isinstance(future, asyncio.Future):
            raise RayServeException(
                f"The call to {self._name} was made on an event loop: 'await' it there. result() "
                "is for calls made in blocking code."
            )
        try:
            return future.result(timeout_s)
        except RemoteError as error:
            raise as_task_error(error, self._name) from None
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # the backend's own
            raise TimeoutError(f"{self._name} gave no answer within {timeout_s:g} s.") from None

    def cancel(self) -> bool:
        """Cancel the call, at the replica too. True unless it was answered before."""
        return self._future.cancel()

    def done(self) -> bool:
        """Whether the answer, an error or a cancellation is there."""
        return self._future.done()


def as_task_error(error: RemoteError, name: str) -> Exception:
    """What `ray.get(handle.remote())` would raise: RayTaskError and the user's type in one.

    It names the replica that raised it, and that one's process.
    """
    cause, origin = error.cause, error.origin
    error.call = name
    raised: Exception
    if isinstance(cause, Exception):
        title = origin.replica or None
        wrapped = RayTaskError(name, error.traceback_text, cause, title, origin.pid or None)
        raised = wrapped.as_instanceof_cause()
    else:
        raised = RayServeException(f"{name} raised {describe_error(cause)}")
    mark_remote(raised, error)
    return raised
