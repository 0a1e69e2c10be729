"""The latest value per key, by long poll. What a listener asks with is what it has applied.

Who only listens leaves nothing here: a cluster may see thousands of drivers come and go. What a
listener has applied is kept of those that somebody waits for.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Stamp = tuple[int, int]
"""Which value of a key: (epoch of the controller's process, running number)."""

NEVER: Stamp = (0, 0)
Update = dict[str, tuple[Stamp, object]]

GIVE_UP_AFTER = 3
"""Attempts of a listener that failed before whoever waits for it is told."""

_LOOK_S = 1.0


class Refusal(NamedTuple):
    """A value that a listener has and can't apply. It tries again by itself.

    Attributes:
        stamp: which value.
        reason: why, in words.
        attempts: how often it has tried.
    """

    stamp: Stamp
    reason: str
    attempts: int


@dataclass(slots=True)
class _Listener:
    applied: Mapping[str, Stamp]
    refused: Mapping[str, Refusal]


class Broadcast:
    """Holds one value per key and wakes listeners when one of theirs changes."""

    def __init__(self) -> None:
        self._epoch = secrets.randbits(48) + 1
        self._number = 0
        self._gone = 0  # the number of the last key that went
        self._values: dict[str, tuple[Stamp, object]] = {}
        self._listeners: dict[str, _Listener] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._watching: set[asyncio.Future[None]] = set()

    @property
    def size(self) -> int:
        """Entries that it holds, of all kinds."""
        waiting = sum(map(len, self._waiting.values()))
        return len(self._values) + len(self._listeners) + waiting + len(self._watching)

    def publish(self, values: Mapping[str, object]) -> None:
        """Take the present values of all keys; a key that is missing has the value None."""
        changed = [
            key
            for key, value in values.items()
            if key not in self._values or self._values[key][1] != value
        ]
        gone = [key for key in self._values if key not in values]
        for key in changed:
            self._number += 1
            self._values[key] = ((self._epoch, self._number), values[key])
        for key in gone:
            self._number += 1
            self._gone = self._number
            del self._values[key]
        for key in (*changed, *gone):
            _wake(self._waiting.get(key, ()))

    async def listen(
        self,
        listener: str,
        applied: Mapping[str, Stamp],
        timeout_s: float,
        refused: Mapping[str, Refusal] | None = None,
    ) -> Update:
        """The values that differ from what the listener has, as soon as there are some.

        Args:
            listener: who asks, if what it has applied may be waited for; "": nobody in particular.
            applied: the keys it wants and which value of each it works with; NEVER for none.
            timeout_s: answer empty after this, seconds.
            refused: by key, values that it has and could not apply.
        """
        refused = refused or {}
        if listener:
            self._listeners[listener] = _Listener(dict(applied), dict(refused))
            _wake(self._watching)
        has = {**applied, **{key: refusal.stamp for key, refusal in refused.items()}}
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            update = self._differing(has)
            left = deadline - asyncio.get_running_loop().time()
            if update or left <= 0:
                return update
            await self._wait(has, left)

    async def until_applied(
        self, listeners: Callable[[], set[str]], key: str, timeout_s: float
    ) -> bool:
        """Wait until all those listeners have the key's present value; whether they did in time.

        It ends early when one of them has tried often enough, and could not.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        wanted = self._stamp(key)
        while True:
            late = [name for name in listeners() if not self._has_applied(name, key, wanted)]
            left = deadline - asyncio.get_running_loop().time()
            if not late:
                return True
            if left <= 0 or any(self._gives_up(name, key, wanted) for name in late):
                return False
            await _sleep_in([self._watching], min(left, _LOOK_S))

    def refusals(self, listener: str) -> dict[str, str]:
        """What a listener could not apply yet: the reason by key."""
        known = self._listeners.get(listener)
        return {} if known is None else {k: r.reason for k, r in known.refused.items()}

    def forget(self, listener: str) -> None:
        """A listener is gone."""
        self._listeners.pop(listener, None)
        _wake(self._watching)

    def _has_applied(self, listener: str, key: str, wanted: Stamp) -> bool:
        known = self._listeners.get(listener)
        epoch, number = NEVER if known is None else known.applied.get(key, NEVER)
        return epoch == wanted[0] and number >= wanted[1]

    def _gives_up(self, listener: str, key: str, wanted: Stamp) -> bool:
        known = self._listeners.get(listener)
        refusal = None if known is None else known.refused.get(key)
        if refusal is None or refusal.attempts < GIVE_UP_AFTER:
            return False
        return refusal.stamp[0] == wanted[0] and refusal.stamp[1] >= wanted[1]

    def _stamp(self, key: str) -> Stamp:
        """Of a key's present value. Keys without one share theirs, which is never an older one."""
        entry = self._values.get(key)
        return (self._epoch, self._gone) if entry is None else entry[0]

    def _differing(self, has: Mapping[str, Stamp]) -> Update:
        update: Update = {}
        for key, stamp in has.items():
            if self._stamp(key) != stamp:
                update[key] = (self._stamp(key), self._values.get(key, (NEVER, None))[1])
        return update

    async def _wait(self, keys: Iterable[str], timeout_s: float) -> None:
        try:
            await _sleep_in([self._waiting.setdefault(key, set()) for key in keys], timeout_s)
        finally:
            for key in keys:
                if not self._waiting.get(key, True):
                    del self._waiting[key]


async def _sleep_in(places: Collection[set[asyncio.Future[None]]], timeout_s: float) -> None:
    """Until one of the places is woken, or time is up."""
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(timeout_s, _finish, woken)
    for place in places:
        place.add(woken)
    try:
        await woken
    finally:
        timer.cancel()
        for place in places:
            place.discard(woken)


def _wake(place: Iterable[asyncio.Future[None]]) -> None:
    for woken in tuple(place):
        _finish(woken)


def _finish(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
