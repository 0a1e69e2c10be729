"""The latest value per key, by long poll. What a listener asks with is what it has applied."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping

Stamp = tuple[int, int]
"""Which value of a key: (epoch of the controller's process, running number)."""

NEVER: Stamp = (0, 0)
Update = dict[str, tuple[Stamp, object]]


class Broadcast:
    """Holds one value per key and wakes listeners when one of theirs changes."""

    def __init__(self) -> None:
        self._epoch = random.getrandbits(48) + 1
        self._number = 0
        self._values: dict[str, tuple[Stamp, object]] = {}
        self._applied: dict[str, Mapping[str, Stamp]] = {}
        self._changed = asyncio.Event()

    def publish(self, values: Mapping[str, object]) -> None:
        """Take the present values of all keys; a key that is missing has the value None."""
        is_changed = False
        for key in {*self._values, *values}:
            value = values.get(key)
            if key not in self._values or self._values[key][1] != value:
                self._number += 1
                self._values[key] = ((self._epoch, self._number), value)
                is_changed = True
        if is_changed:
            self._wake()

    async def listen(self, listener: str, applied: Mapping[str, Stamp], timeout_s: float) -> Update:
        """The values that differ from what the listener has applied, as soon as there are some.

        Args:
            listener: who asks.
            applied: the keys it wants and which value of each it works with; NEVER for none.
            timeout_s: answer empty after this, seconds.
        """
        self._applied[listener] = dict(applied)
        self._wake()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            update = self._differing(applied)
            left = deadline - asyncio.get_running_loop().time()
            if update or left <= 0:
                return update
            await self._wait(left)

    async def until_applied(
        self, listeners: Callable[[], set[str]], key: str, timeout_s: float
    ) -> bool:
        """Wait until all those listeners have the key's present value; whether they did in time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        wanted = self._stamp(key)
        while not all(self._has_applied(name, key, wanted) for name in listeners()):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self._wait(left)
        return True

    def forget(self, listener: str) -> None:
        """A listener is gone."""
        self._applied.pop(listener, None)
        self._wake()

    def _has_applied(self, listener: str, key: str, wanted: Stamp) -> bool:
        epoch, number = self._applied.get(listener, {}).get(key, NEVER)
        return epoch == wanted[0] and number >= wanted[1]

    def _stamp(self, key: str) -> Stamp:
        entry = self._values.get(key)
        return (self._epoch, 0) if entry is None else entry[0]

    def _differing(self, applied: Mapping[str, Stamp]) -> Update:
        update: Update = {}
        for key, stamp in applied.items():
            if self._stamp(key) != stamp:
                update[key] = (self._stamp(key), self._values.get(key, (NEVER, None))[1])
        return update

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, timeout_s: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):  # the caller looks at its deadline
            await asyncio.wait_for(self._changed.wait(), timeout_s)
