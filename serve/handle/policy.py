"""What both ways of calling share: whose turn it is, what is said when nobody is free. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from serve.errors import QueueFullError, QueueTimeoutError
from serve.records import BackendTargets

T = TypeVar("T")


class RoundRobin:
    """Takes turns over the replicas of a backend, and passes over those that have no room."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 0

    def take(self, replicas: Sequence[T], has_room: Callable[[T], bool]) -> T | None:
        """The next one that has room, whose turn it was then; None when nobody has."""
        count = len(replicas)
        for step in range(count):
            index = (self._next + step) % count
            if has_room(replicas[index]):
                self._next = index + 1
                return replicas[index]
        return None


def queue_full_error(targets: BackendTargets) -> QueueFullError:
    """So many calls wait already that one more may not."""
    return QueueFullError(
        f"The queue of backend '{targets.backend_tag}' is full: {targets.max_queued_queries} "
        "calls wait already (max_queued_queries). Send slower, add replicas, or raise "
        "max_queued_queries."
    )


def queue_timeout_error(targets: BackendTargets) -> QueueTimeoutError:
    """No replica was free for too long."""
    return QueueTimeoutError(
        f"Backend '{targets.backend_tag}' had no replica free within "
        f"{targets.queue_timeout_s:g} s (queue_timeout_s). It has {len(targets.replicas)} "
        f"running, each takes {targets.max_concurrent_queries} at once from here. Add replicas, or "
        "raise max_concurrent_queries or queue_timeout_s."
    )
