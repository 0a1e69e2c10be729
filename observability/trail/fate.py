"""What became of a step that left no access record. Pure.

A step without a record is known by the lines that were said in it, by the calls that it made, or by
the record that its replica's end left of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from observability.trail.query import Record
from observability.trail.step import State, Step, Where, to_epoch

CLOCKS_S = 0.05
"""Two processes' times of one moment differ by less, mostly."""


@dataclass
class Facts:
    """What is known beside the records of the request's own steps.

    Attributes:
        ends: of replicas' processes.
        gaps: records that tell of others that could not be written.
        is_live: whether the replicas that run were asked what they have under way.
    """

    ends: list[Record] = field(default_factory=list)
    gaps: list[Record] = field(default_factory=list)
    is_live: bool = False


def decide(step: Step, facts: Facts) -> None:
    """Say what became of a step without a record: its `state` and what tells of it, its `fate`."""
    if step.fate is None:
        where = step.where
        ends = [end for end in facts.ends if where is not None and Where.of(end) == where]
        step.fate = min(ends, key=to_epoch, default=None)
    if step.fate is not None:
        step.state = State.KILLED
        return
    step.fate = next((gap for gap in facts.gaps if _may_hold(gap, step)), None)
    if step.fate is not None:
        step.state = State.DROPPED
    else:
        step.state = State.LOST if facts.is_live else State.UNKNOWN


def hang_attempts(roots: list[Step], lost: Sequence[Step]) -> None:
    """Hang each step that its replica did not survive on the one whose attempt it was.

    That one has a record: of the replica that had the request next, or of who answered for it.
    """
    steps = [step for root in roots for step in root.walk()]
    for step in lost:
        if step.state is not State.KILLED:
            continue
        below = {id(each) for each in step.walk()}
        others = (other for other in steps if id(other) not in below)
        found = next((other for other in others if _is_attempt_of(step, other)), None)
        if found is not None:
            roots.remove(step)
            step.is_attempt = True
            behind_s = max(0.0, found.started_s - step.started_s)
            for each in step.walk():
                each.shift_s += behind_s
            found.children.append(step)
            found.children.sort(key=lambda child: child.started_s)


def leave_out_told(present: Iterable[Record], told: Iterable[Record]) -> list[Record]:
    """What was under way when it was asked for, without what has ended since.

    A step that ended is told by its access record, a call that arrived by the replica that has it.

    Args:
        present: records of kind `under_way`.
        told: access records of the same request.
    """
    ended = [Step(record) for record in told]
    running = [Step(record) for record in present]
    at_replica = [step for step in running if not _is_on_the_way(step)]
    on_the_way = [step for step in running if _is_on_the_way(step)]
    left = _without_twins(at_replica, ended)
    on_the_way = _without_twins(on_the_way, [*ended, *at_replica])
    return [step.access for step in (*left, *on_the_way) if step.access is not None]


def _without_twins(steps: list[Step], others: list[Step]) -> list[Step]:
    free = list(others)
    left = []
    for step in steps:
        twin = next((other for other in free if _is_same(step, other)), None)
        if twin is None:
            left.append(step)
        else:
            free.remove(twin)
    return left


def _is_same(step: Step, other: Step) -> bool:
    own, its = step.access or {}, other.access or {}
    keys = ["method", "endpoint", "parent_id"]
    if not _is_on_the_way(step):  # else who has it knows more of its way
        if other.where != step.where:
            return False
        if own.get("span_id") and own.get("span_id") == its.get("span_id"):
            return True
        keys += ["way", "path"]
    return (
        all(own.get(key) == its.get(key) for key in keys)
        and abs(step.started_s - other.started_s) < CLOCKS_S
    )


def _is_on_the_way(step: Step) -> bool:
    """Whether its caller tells of it: no replica has taken it up yet, as far as that one knows."""
    return (step.access or {}).get("stage") in ("queue", "sent")


def _may_hold(gap: Record, step: Step) -> bool:
    """Whether a step's record may be among those that were dropped."""
    if step.where is not None and Where.of(gap) != step.where:
        return False
    return to_epoch(gap) >= step.started_s


def _is_attempt_of(step: Step, other: Step) -> bool:
    access = other.access
    if access is None or step.where is None or other.where == step.where:
        return False
    said = [step.fate or {}, *step.logs]
    backends = {record.get("backend") for record in said} - {None}
    ended_s = other.started_s + other.total_ms / 1000
    return (
        access.get("backend") in backends
        and other.started_s - CLOCKS_S <= step.started_s <= ended_s + CLOCKS_S
    )
