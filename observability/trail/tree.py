"""One request as a tree: which step called which, and what each said. Pure.

A step is an access record. It is the child of the step whose span_id is its parent_id; what a batch
called, of the one whose batch_span_id that is. A log record
belongs to the step of its replica. A step whose parent left no record (the replica was killed
before it wrote one) hangs on a step that stands for the lost one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from observability.trail.query import Record

SLOW_SHARE = 0.5
"""A step that has this share of the whole time to itself stands out."""


@dataclass
class Step:
    """One step of a request.

    Attributes:
        access: its access record; None: it was lost, others refer to it.
        logs: what was said in it, in the order of time.
        children: the steps it called, in the order of their begin.
        shift_s: added to its times: its node's clock is at least so far behind its caller's.
    """

    access: Record | None
    logs: list[Record] = field(default_factory=list)
    children: list[Step] = field(default_factory=list)
    shift_s: float = 0.0

    @property
    def started_s(self) -> float:
        """When it began to wait, seconds since the epoch."""
        if self.access is None:
            times = [child.started_s for child in self.children]
            times += [self.time_of(record) for record in self.logs]
            return min(times)
        return self.time_of(self.access) - self.total_ms / 1000

    def time_of(self, record: Record) -> float:
        """A record's time by the clock of who began the request, seconds since the epoch."""
        return to_epoch(record) + self.shift_s

    @property
    def queue_ms(self) -> float:
        """Wait before it ran, milliseconds."""
        return _number(self.access, "queue_ms")

    @property
    def processing_ms(self) -> float:
        """How long it ran, the steps it called included, milliseconds."""
        return _number(self.access, "processing_ms")

    @property
    def send_ms(self) -> float:
        """How long its answer waited for the client, milliseconds."""
        return _number(self.access, "send_ms")

    @property
    def total_ms(self) -> float:
        """Wait, run and send, milliseconds."""
        return self.queue_ms + self.processing_ms + self.send_ms

    @property
    def own_ms(self) -> float:
        """How long it ran without waiting for a step that it called, milliseconds."""
        spans = sorted((c.started_s, c.started_s + c.total_ms / 1000) for c in self.children)
        covered, until = 0.0, 0.0
        for begin, end in spans:
            covered += max(0.0, end - max(begin, until))
            until = max(until, end)
        return max(0.0, self.processing_ms - covered * 1000)

    @property
    def is_failed(self) -> bool:
        """Whether it ended in an error, or left no record."""
        return self.access is None or _number(self.access, "status") >= 400

    def walk(self) -> Iterable[Step]:
        """This step and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def assemble(records: Iterable[Record]) -> list[Step]:
    """The trees of the records of one request id; two clients may have sent the same id.

    Args:
        records: all that carry the id, in the order of time.

    Returns:
        The steps that nobody called, in the order of their begin.
    """
    steps: list[Step] = []
    logs: list[Record] = []
    for record in records:
        if record.get("kind") == "access":
            steps.append(Step(record))
        else:
            logs.append(record)
    roots, lost = _link(steps)
    for root in roots:
        _align(root)
    roots += _hang(logs, steps, lost)
    return sorted(roots, key=lambda step: step.started_s)


def slow_steps(root: Step) -> set[int]:
    """`id`s of the steps that stand out in a tree of several, by their own time or their wait."""
    steps = list(root.walk())
    whole_ms = max(root.total_ms, sum(step.own_ms for step in steps))
    if len(steps) < 2 or whole_ms <= 0:
        return set()
    return {id(s) for s in steps if max(s.own_ms, s.queue_ms) >= SLOW_SHARE * whole_ms}


def describe(step: Step) -> dict[str, Any]:
    """A step and all below it as plain data, for JSON."""
    return {
        "access": step.access,
        "started": step.started_s,
        "queue_ms": step.queue_ms,
        "processing_ms": step.processing_ms,
        "send_ms": step.send_ms,
        "own_ms": round(step.own_ms, 3),
        "clock_behind_ms": round(step.shift_s * 1000, 3),
        "failed": step.is_failed,
        "logs": step.logs,
        "children": [describe(child) for child in step.children],
    }


def to_epoch(record: Record) -> float:
    """A record's time in seconds since the epoch; 0 for one that can't be read."""
    text = str(record.get("time", ""))
    try:
        whole = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
        return whole + float(f"0{text[19:].rstrip('Z')}")
    except ValueError:
        return 0.0


def _link(steps: list[Step]) -> tuple[list[Step], dict[str, Step]]:
    """Hang each step on the one that called it; those that nobody called, and the lost ones."""
    by_span = {_name(s, "batch_span_id"): s for s in steps}
    by_span |= {_name(s, "span_id"): s for s in steps}
    by_span.pop("", None)
    lost: dict[str, Step] = {}
    roots = []
    for step in steps:
        parent_id = _name(step, "parent_id")
        parent = by_span.get(parent_id)
        if not parent_id or parent is step:
            roots.append(step)
        elif parent is not None:
            parent.children.append(step)
        else:
            if parent_id not in lost:
                lost[parent_id] = Step(None)
                roots.append(lost[parent_id])
            lost[parent_id].children.append(step)
    return roots, lost


def _align(step: Step) -> None:
    """Shift what would have begun before its caller's handler did: two clocks differ."""
    for child in step.children:
        child.shift_s = step.shift_s
        if step.access is not None:
            called_s = step.started_s + step.queue_ms / 1000
            child.shift_s += max(0.0, called_s - child.started_s)
        _align(child)
    step.children.sort(key=lambda child: child.started_s)


def _name(step: Step, field: str) -> str:
    """An id from a step's record: text, whatever the file says."""
    return str(step.access.get(field) or "") if step.access else ""


def _hang(logs: list[Record], steps: list[Step], lost: dict[str, Step]) -> list[Step]:
    """Give each log record to its step; a step for what was said in one that left no record."""
    homeless: dict[str, Step] = {}
    for record in logs:
        home = _find_home(record, steps) or lost.get(str(record.get("span_id", "")))
        if home is None:
            replica = str(record.get("replica", ""))
            home = homeless.setdefault(replica, Step(None))
        home.logs.append(record)
    return list(homeless.values())


def _find_home(record: Record, steps: list[Step]) -> Step | None:
    replica, span_id = record.get("replica"), record.get("span_id")
    own = [s for s in steps if s.access is not None and s.access.get("replica") == replica]
    if len(own) > 1 and span_id:
        own = [s for s in own if s.access and s.access.get("span_id") == span_id] or own
    if len(own) > 1:  # the one that ran then, else the next one that ended
        own = [
            s for s in own if s.access and s.started_s <= s.time_of(record) <= s.time_of(s.access)
        ] or own
    return own[0] if own else None


def _number(record: Record | None, name: str) -> float:
    value = None if record is None else record.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
