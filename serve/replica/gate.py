"""The limit of requests in flight at a replica: `max_concurrent_queries` over all ways in."""

from __future__ import annotations

import asyncio
from collections import deque

from serve.errors import QueueTimeoutError


class Gate:
    """Lets so many in at once; the others wait in the order they came.

    Args:
        limit: most that are inside.
        timeout_s: longest wait, seconds.
        name: whose gate it is, for the error.
    """

    def __init__(self, limit: int, timeout_s: float, name: str) -> None:
        self.limit = limit
        self.timeout_s = timeout_s
        self.inside = 0
        self._name = name
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(not future.done() for future in self._waiting)

    def try_enter(self) -> bool:
        """Enter if there is room and nobody waits: the fast way, without a suspension."""
        if self.inside < self.limit and not self._waiting:
            self.inside += 1
            return True
        return False

    async def wait(self) -> None:
        """Enter when it is one's turn. QueueTimeoutError after `timeout_s`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._admit()
        try:
            await asyncio.wait_for(future, self.timeout_s)
        except asyncio.TimeoutError:
            self._give_back(future)
            raise QueueTimeoutError(
                f"{self._name} had no place free within {self.timeout_s:g} s: {self.inside} of "
                f"{self.limit} (max_concurrent_queries) are taken. Add replicas, or raise "
                "max_concurrent_queries or queue_timeout_s."
            ) from None
        except asyncio.CancelledError:
            self._give_back(future)
            raise

    def leave(self) -> None:
        """Give one's place back."""
        self.inside -= 1
        self._admit()

    def resize(self, limit: int, timeout_s: float) -> None:
        """Change the limit; who is inside stays."""
        self.limit = limit
        self.timeout_s = timeout_s
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.inside < self.limit:
            future = self._waiting.popleft()
            if not future.done():
                self.inside += 1
                future.set_result(None)

    def _give_back(self, future: asyncio.Future[None]) -> None:
        # A place may have been given in the same moment as the wait ended.
        if future.done() and not future.cancelled():
            self.leave()
        else:
            self._waiting = deque(other for other in self._waiting if other is not future)
