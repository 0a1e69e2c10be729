"""Looking at something again and again, within a limit, while whoever waits is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from observability.doctor.findings import Station

POLL_S = 0.25

T = TypeVar("T")

Waiting = Callable[[Station, float], None]
"""Told which station is waited for, and for how long now, seconds."""


class Watch:
    """The clock of one examination.

    Args:
        timeout_s: longest wait at a station, seconds.
        waiting: told of each wait.

    Attributes:
        sent_s: when the canary was sent, seconds since 1970.
    """

    def __init__(self, timeout_s: float, waiting: Waiting) -> None:
        self.timeout_s = timeout_s
        self.waiting = waiting
        self.sent_s = 0.0
        self._sent_at = 0.0

    def start(self) -> None:
        """The canary is sent now."""
        self.sent_s, self._sent_at = time.time(), time.monotonic()

    def elapsed_s(self) -> float:
        """Since the canary was sent, seconds."""
        return time.monotonic() - self._sent_at

    def until(
        self,
        station: Station,
        look: Callable[[], T],
        is_done: Callable[[T], bool],
        limit_s: float | None = None,
        every_s: float = POLL_S,
    ) -> T:
        """Look until it is done or the time is over; the last thing seen."""
        limit_s = self.timeout_s if limit_s is None else limit_s
        began = time.monotonic()
        while True:
            self.waiting(station, time.monotonic() - began)
            seen = look()
            if is_done(seen) or time.monotonic() - began >= limit_s:
                return seen
            time.sleep(every_s)
