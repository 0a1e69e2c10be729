"""Requests that no endpoint takes, a scanner's say: which are recorded when they are many. Pure.

Anybody can send any number of them. So their records are sampled past a rate, have a small share of
the folder to themselves, and push no other record out. All are counted, recorded or not.
"""

from __future__ import annotations

from collections.abc import Callable

from observability.instrument.access import AccessRecord
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.retention import Retention, Share
from serve.ingress.maps import RELAY_SECTION

FULL_RATE = 100
"""So many a second are all recorded."""

SAMPLE = 100
"""Beyond that, one of so many is."""

SHARE = 16
"""Their segments take at most one part in so many of the folder's total."""

TELL_S = 60.0
"""How often it is told what was left out, seconds."""

_OWN_STATES = (b"LR", b"PR")  # HAProxy answered by itself, or could not read the request
_FIELDS = 14


def find_stray(data: bytes) -> AccessRecord | None:
    """What is counted of a request that no endpoint takes; None for any other line.

    Read out of the raw line, as there may be tens of thousands a second.

    Args:
        data: a line of HAProxy's log (`loglines.py` has its fields).
    """
    fields = data.split(b"\t", _FIELDS)
    if len(fields) <= _FIELDS or fields[3] not in _OWN_STATES:
        return None
    status, section, endpoint = fields[2], fields[10], fields[12]
    if not status.isdigit() or section == RELAY_SECTION.encode():
        return None
    if endpoint == b"-":
        return AccessRecord(way="http", status=int(status))
    if status != b"405":
        return None
    route = fields[13].decode("utf-8", "replace")
    return AccessRecord(
        way="http", status=405, endpoint=endpoint.decode("utf-8", "replace"), route=route
    )


def stray_retention(config: LoggingConfig) -> Retention:
    """The limits of the segments of such requests."""
    total = max(4096, config.max_total_bytes // SHARE)
    segment_bytes = min(config.segment_bytes, max(1024, total // 4))
    share = Share(config.max_age_s, total)
    return Retention(segment_bytes, config.max_age_s, config.max_total_bytes, share)


class StraySampler:
    """Chooses those that are recorded, and remembers how many were not.

    Args:
        clock: seconds of a monotonic clock.

    Attributes:
        left_out: those that were not recorded, of all the process's life.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = -1
        self._in_second = 0
        self._told_at = clock()
        self._told = 0
        self.left_out = 0

    def takes(self) -> bool:
        """Whether the next one is recorded."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._in_second = second, 0
        self._in_second += 1
        beyond = self._in_second - FULL_RATE
        if beyond <= 0 or beyond % SAMPLE == 0:
            return True
        self.left_out += 1
        return False

    def tell(self) -> str:
        """What was left out since this was last told, once in TELL_S; "" when there is nothing."""
        now, fresh = self._clock(), self.left_out - self._told
        if not fresh or now - self._told_at < TELL_S:
            return ""
        self._told_at, self._told = now, self.left_out
        return (
            f"{fresh} requests that no endpoint takes (404, 405, 400) have no record of their own: "
            f"beyond {FULL_RATE} a second, one of {SAMPLE} has. All are counted "
            "(ray_serve_endpoint_requests_total)."
        )


class LostLines:
    """How many lines HAProxy could not write, over all its workers.

    Attributes:
        count: of all the process's life.
    """

    def __init__(self) -> None:
        self._worker = ""
        self._dropped = 0
        self.count = 0

    def see(self, pid: str, dropped: int) -> int:
        """Take what a worker says that it has dropped; how many more those are now."""
        fresh = dropped - (self._dropped if pid == self._worker else 0)
        self._worker, self._dropped = pid, dropped
        self.count += fresh
        return fresh
