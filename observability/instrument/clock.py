"""The time of records: RFC 3339 with nanoseconds, and no two alike in a process.

An agent takes it as the entry's time. A line that is sent twice is then one entry to Loki, and two
lines are never one.
"""

from __future__ import annotations

import threading
import time

_SECOND_NS = 1_000_000_000


class Clock:
    """Strictly increasing times as text, from any thread."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may run a finaliser that logs while the lock is held.
        self._lock = threading.RLock()
        self._last_ns = 0
        self._next_second_ns = self._base_ns = 0
        self._prefix = ""

    def next_time(self) -> str:
        """Now, or a nanosecond after the time given last, as `2026-11-23T02:08:01.123456789Z`."""
        with self._lock:
            now_ns = time.time_ns()
            if now_ns <= self._last_ns:
                now_ns = self._last_ns + 1
            self._last_ns = now_ns
            if now_ns >= self._next_second_ns:
                second = now_ns // _SECOND_NS
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
                self._base_ns = second * _SECOND_NS - _SECOND_NS  # keeps the leading zeros
                self._next_second_ns = (second + 1) * _SECOND_NS
            return f"{self._prefix}{str(now_ns - self._base_ns)[1:]}Z"


def format_time(time_ns: int) -> str:
    """A moment, nanoseconds since the epoch, as records have it."""
    second, rest = divmod(time_ns, _SECOND_NS)
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)) + f"{rest:09d}Z"


next_time = Clock().next_time
"""The process's own: all its records share it."""
