"""One step of a request: what is known of it, its times and its state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from observability.trail.query import Record


class State(str, Enum):
    """What is known of a step."""

    ENDED = "ended"
    """Its access record tells how."""
    UNDER_WAY = "under_way"
    """A replica has it now, or it waits for one."""
    KILLED = "killed"
    """Its replica's process ended before it did."""
    DROPPED = "dropped"
    """Its replica could not write records at that time: the disk was full, say."""
    LOST = "lost"
    """None of these."""
    UNKNOWN = "unknown"
    """Under way or lost: only the replicas that run could tell, and they were not asked."""


class Where(NamedTuple):
    """A replica's process: one that was started anew has the same tag."""

    replica: str
    pid: int

    @classmethod
    def of(cls, record: Record) -> Where | None:
        """That of a record; None: it names none."""
        replica, pid = record.get("replica"), record.get("pid")
        if not replica or record.get("component") == "ingress":
            return None
        return cls(str(replica), pid if isinstance(pid, int) else 0)


@dataclass
class Step:
    """One step of a request.

    Attributes:
        access: its access record, or what a replica says of it that has it now; None: there is
            none, other records refer to it.
        logs: what was said in it, in the order of time.
        children: the steps it called, in the order of their begin.
        shift_s: added to its times: its node's clock is at least so far behind its caller's.
        state: what is known of it.
        fate: the record that tells why there is no access record: of its replica's end, or of
            records that were dropped.
        is_attempt: another replica, or nobody, had it after this one ended.
    """

    access: Record | None
    logs: list[Record] = field(default_factory=list)
    children: list[Step] = field(default_factory=list)
    shift_s: float = 0.0
    state: State = State.ENDED
    fate: Record | None = None
    is_attempt: bool = False

    @property
    def where(self) -> Where | None:
        """The process that it was in, as far as that is known."""
        records = [self.access] if self.access is not None else [*self.logs, self.fate or {}]
        return next(filter(None, map(Where.of, records)), None)

    @property
    def started_s(self) -> float:
        """When it began to wait, seconds since the epoch."""
        if self.access is not None:
            return self.time_of(self.access) - self.total_ms / 1000
        times = [child.started_s for child in self.children]
        times += [self.time_of(record) for record in self.logs]
        if self.fate is not None and self.fate.get("request_id"):
            times.append(self.time_of(self.fate) - number(self.fate, "processing_ms") / 1000)
        return min(times)

    def time_of(self, record: Record) -> float:
        """A record's time by the clock of who began the request, seconds since the epoch."""
        return to_epoch(record) + self.shift_s

    @property
    def queue_ms(self) -> float:
        """Wait before it ran, milliseconds."""
        return number(self.access, "queue_ms")

    @property
    def processing_ms(self) -> float:
        """How long it ran, the steps it called included, milliseconds."""
        if self.access is None and self.fate is not None and self.state is State.KILLED:
            return max(0.0, self.time_of(self.fate) - self.started_s) * 1000
        return number(self.access, "processing_ms")

    @property
    def send_ms(self) -> float:
        """How long its answer waited for the client, milliseconds."""
        return number(self.access, "send_ms")

    @property
    def total_ms(self) -> float:
        """Wait, run and send, milliseconds."""
        return self.queue_ms + self.processing_ms + self.send_ms

    @property
    def own_ms(self) -> float:
        """How long it ran without waiting for a step that it called, milliseconds."""
        spans = sorted((c.started_s, c.started_s + c.total_ms / 1000) for c in self.children)
        # An attempt before this one is part of its wait.
        covered, until = 0.0, self.started_s + self.queue_ms / 1000
        for begin, end in spans:
            covered += max(0.0, end - max(begin, until))
            until = max(until, end)
        return max(0.0, self.processing_ms - covered * 1000)

    @property
    def is_failed(self) -> bool:
        """Whether it ended in an error, or left no record."""
        if self.state is State.UNDER_WAY:
            return False
        return self.access is None or number(self.access, "status") >= 400

    def walk(self) -> Iterable[Step]:
        """This step and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def describe(self) -> dict[str, Any]:
        """It and all below it as plain data, for JSON."""
        fate, access = self.fate or {}, self.access
        return {
            "state": self.state.value,
            "stage": None if access is None else access.get("stage"),
            "died_by": fate.get("died_by"),
            "dropped": fate.get("dropped"),
            "attempt": int(number(fate, "retries")) + 1 if self.is_attempt else None,
            "access": access,
            "started": self.started_s,
            "queue_ms": self.queue_ms,
            "processing_ms": self.processing_ms,
            "send_ms": self.send_ms,
            "own_ms": round(self.own_ms, 3),
            "clock_behind_ms": round(self.shift_s * 1000, 3),
            "failed": self.is_failed,
            "logs": self.logs,
            "children": [child.describe() for child in self.children],
        }


def to_epoch(record: Record) -> float:
    """A record's time in seconds since the epoch; 0 for one that can't be read."""
    text = str(record.get("time", ""))
    try:
        whole = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
        return whole + float(f"0{text[19:].rstrip('Z')}")
    except ValueError:
        return 0.0


def number(record: Record | None, name: str) -> float:
    """A field of a record as a number; 0 where it is none."""
    value = None if record is None else record.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
