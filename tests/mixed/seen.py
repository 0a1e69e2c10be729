"""What a client saw of a request, and which access records there must be of it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]

GONE = 499


@dataclass(frozen=True)
class Want:
    """One access record that must be there, exactly once.

    Attributes:
        way: `http`, `websocket`, `call` or `remote`.
        statuses: one of these; more than one where a client that leaves can't know.
        endpoint: of the record; "" for a request that no endpoint takes.
        error: part of the record's `error`; "" for a record without one; None: either.
        bytes_out: at a replica; None: any.
        close_code: of a WebSocket.
        is_optional: it may be missing: the client withdrew before anybody had the request.
    """

    way: str
    statuses: tuple[int, ...]
    endpoint: str
    error: str | None = ""
    bytes_out: int | None = None
    close_code: int = 0
    is_optional: bool = False

    def fits(self, record: Record) -> bool:
        """Whether a record is this one."""
        error = record.get("error", "")
        return (
            record["way"] == self.way
            and record["status"] in self.statuses
            and record.get("endpoint", "") == self.endpoint
            and (self.error is None or (self.error in error if self.error else not error))
            and (self.bytes_out in (None, record.get("bytes_out", 0)) or "replica" not in record)
            and record.get("close_code", 0) == self.close_code
        )

    def __str__(self) -> str:
        statuses = "/".join(map(str, self.statuses))
        error = "" if not self.error else f" {self.error}"
        code = f" close {self.close_code}" if self.close_code else ""
        size = "" if self.bytes_out is None else f" {self.bytes_out} B"
        return f"{self.way} {self.endpoint or '-'} {statuses}{code}{size}{error}"


@dataclass(frozen=True)
class Seen:
    """One request as its client saw it."""

    kind: str
    request_id: str
    saw: str
    wants: tuple[Want, ...]


@dataclass(frozen=True)
class Difference:
    """A request whose records are not what its client saw."""

    kind: str
    request_id: str
    saw: str
    wanted: str
    records: str


def compare(
    seen: Iterable[Seen], records: Iterable[Record], dead_pids: frozenset[int] = frozenset()
) -> list[Difference]:
    """The requests whose records differ from what their clients saw.

    Args:
        seen: all requests.
        records: all access records; those of other requests are left alone.
        dead_pids: a process that was killed may have written a record whose answer never left:
            such a record may be there beside those that are wanted.
    """
    by_id: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_id[record["request_id"]].append(record)
    found = []
    for one in seen:
        own = by_id.get(one.request_id, [])
        if not _agree(one.wants, own, dead_pids):
            wanted = " + ".join(map(str, one.wants)) or "none"
            told = " + ".join(map(describe, own)) or "none"
            found.append(Difference(one.kind, one.request_id, one.saw, wanted, told))
    return found


def _agree(wants: tuple[Want, ...], records: list[Record], dead_pids: frozenset[int]) -> bool:
    left = sorted(records, key=lambda record: record["pid"] in dead_pids)
    for want in sorted(wants, key=lambda want: want.is_optional):
        fitting = next((record for record in left if want.fits(record)), None)
        if fitting is not None:
            left.remove(fitting)
        elif not want.is_optional:
            return False
    return all(record["pid"] in dead_pids for record in left)


def describe(record: Record) -> str:
    """A record in a few words."""
    who = record.get("replica", record["component"])
    code = f" close {record['close_code']}" if "close_code" in record else ""
    error = f" {record['error']!r}" if record.get("error") else ""
    size = record.get("bytes_out", "?")
    way, endpoint = record["way"], record.get("endpoint", "-")
    return f"{way} {endpoint} {record['status']}{code} {size} B{error} ({who})"


Counts = dict[tuple[str, ...], int]


def differing(records: Counts, counters: Mapping[tuple[str, ...], float]) -> list[Difference]:
    """The series whose counter is not the number of its records."""
    found = []
    for key in sorted({*records, *counters}):
        wanted, counted = records.get(key, 0), counters.get(key, 0)
        if wanted != counted:
            name = " ".join(part or "-" for part in key)
            found.append(
                Difference("counter", name, f"counted {counted:g}", "", f"{wanted} records")
            )
    return found


def table(differences: list[Difference], most: int = 40) -> str:
    """The differences, for people."""
    rows = [("kind", "request id", "the client saw", "wanted", "the records say")]
    rows += [(d.kind, d.request_id, d.saw, d.wanted, d.records) for d in differences[:most]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- " * 5 + "|")
    if len(differences) > most:
        lines.append(f"and {len(differences) - most} more")
    return "\n".join(lines)
