"""Which records are wanted. Pure: a query decides on one record, and what its line must contain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

Record = dict[str, Any]
"""One record, as `observability.fields` describes it."""

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}

_AGO = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_FRACTION = re.compile(r"\.([0-9]+)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Query:
    """What records must be like. An empty field asks for nothing.

    Attributes:
        backend: tag of the backend.
        replica: tag of the replica.
        endpoint: name of the endpoint.
        request_id: id of the request.
        level: this level or a higher one.
        text: found in some value.
        since: earliest time, as records have it.
        until: latest time, as records have it.
    """

    backend: str = ""
    replica: str = ""
    endpoint: str = ""
    request_id: str = ""
    level: str = ""
    text: str = ""
    since: str = ""
    until: str = ""

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is wanted."""
        wanted = self.request_id
        if wanted and record.get("request_id") != wanted:
            batch_ids = record.get("batch_ids")
            if not isinstance(batch_ids, list) or wanted not in batch_ids:
                return False
        for name in ("replica", "backend", "endpoint"):
            wanted = getattr(self, name)
            if wanted and record.get(name) != wanted:
                return False
        time = str(record.get("time", ""))
        if (self.since and time < self.since) or (self.until and time > self.until):
            return False
        if self.level and level_number(record) < LEVELS[self.level]:
            return False
        return not self.text or _contains(record, self.text)

    def needles(self) -> list[bytes]:
        """What the line of every wanted record contains, the rarest first."""
        found = [_encode(self.request_id)] if self.request_id else []  # a batch lists several
        found += [
            b'"%s":%s' % (name.encode(), _encode(value))
            for name in ("replica", "endpoint", "backend")
            if (value := getattr(self, name))
        ]
        if self.text:
            found.insert(1 if self.request_id else 0, _encode(self.text)[1:-1])
        return found


def level_number(record: Mapping[str, Any]) -> int:
    """A record's level as a number; INFO for what is not known."""
    return LEVELS.get(str(record.get("level")), 20)


def _contains(value: object, text: str) -> bool:
    """Whether a text is in a value, not in the names of its fields."""
    if isinstance(value, Mapping):
        return any(_contains(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_contains(item, text) for item in value)
    return text in str(value)


def parse_time(text: str, now: datetime) -> str:
    """A time as records have it, from `10m` (ago) or an RFC 3339 time.

    Raises:
        ValueError: it is neither.
    """
    try:
        ago, fraction = _AGO.fullmatch(text), _FRACTION.search(text)
        if ago:
            moment = now - timedelta(seconds=float(ago[1]) * _UNITS_S[ago[2]])
            nanoseconds = f"{moment.microsecond:06d}000"
        else:  # without its fraction: Python reads no nanoseconds
            moment = datetime.fromisoformat(_FRACTION.sub("", text).replace("Z", "+00:00"))
            nanoseconds = f"{fraction[1]:0<9.9}" if fraction else "000000000"
        # A time without a zone is the user's own.
        moment = moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time. Expected how long ago (30s, 10m, 2h, 1d) or a time such as "
            "2026-11-23T02:08:01Z."
        ) from None
    return f"{moment.isoformat()[:19]}.{nanoseconds}Z"
