"""One request as a tree: which step called which, and what each said. Pure.

A step is an access record, or what a replica tells of one that has not ended. It is the child of
the step whose span_id is its parent_id; what a batch called, of the one whose batch_span_id that
is. A log record belongs to the step of its process. What was said, or called, in a step that left
no record is a step of its own; `fate.py` says what became of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from observability.fields import UNDER_WAY
from observability.trail.fate import Facts, decide, hang_attempts, leave_out_told
from observability.trail.query import Record
from observability.trail.step import State, Step, Where

SLOW_SHARE = 0.5
"""A step that has this share of the whole time to itself stands out."""


def assemble(records: Iterable[Record], *, is_live: bool = False) -> list[Step]:
    """The trees of the records of one request id; two clients may have sent the same id.

    Args:
        records: all that carry the id, in the order of time; what replicas have under way of it;
            and those of the ends of replicas and of dropped records that may concern it.
        is_live: whether all replicas that run were asked what they have under way.

    Returns:
        The steps that nobody called, in the order of their begin.
    """
    told, present, said, facts = _sort(records, is_live)
    steps = [Step(record) for record in told]
    steps += [Step(r, state=State.UNDER_WAY) for r in leave_out_told(present, told)]
    roots, orphans = _link(steps)
    for root in roots:
        _align(root)
    lost = _hang(said, steps, orphans)
    for step in lost:
        decide(step, facts)
    roots += lost
    hang_attempts(roots, lost)
    return sorted(roots, key=lambda step: step.started_s)


def slow_steps(root: Step) -> set[int]:
    """`id`s of the steps that stand out in a tree of several, by their own time or their wait."""
    steps = list(root.walk())
    whole_ms = max(root.total_ms, sum(step.own_ms for step in steps))
    if len(steps) < 2 or whole_ms <= 0:
        return set()
    return {id(s) for s in steps if max(s.own_ms, s.queue_ms) >= SLOW_SHARE * whole_ms}


def _sort(
    records: Iterable[Record], is_live: bool
) -> tuple[list[Record], list[Record], list[Record], Facts]:
    """The access records, what is under way, what was said, and what is known beside them."""
    told, present, said = [], [], []
    facts = Facts(is_live=is_live)
    for record in records:
        if record.get("kind") == "access":
            told.append(record)
        elif record.get("kind") == UNDER_WAY:
            present.append(record)
        elif record.get("dropped"):
            facts.gaps.append(record)
        elif record.get("died_by") and not record.get("request_id"):
            facts.ends.append(record)
        else:
            said.append(record)
    return told, present, said, facts


def _link(steps: list[Step]) -> tuple[list[Step], dict[str, list[Step]]]:
    """Hang each step on the one that called it.

    Returns:
        Those that nobody called; and those whose caller is not there, by the span that called them.
    """
    by_span = {_name(s, "batch_span_id"): s for s in steps}
    by_span |= {_name(s, "span_id"): s for s in steps}
    by_span.pop("", None)
    orphans: dict[str, list[Step]] = {}
    roots = []
    for step in steps:
        parent_id = _name(step, "parent_id")
        parent = by_span.get(parent_id)
        if not parent_id or parent is step:
            roots.append(step)
        elif parent is not None:
            parent.children.append(step)
        else:
            orphans.setdefault(parent_id, []).append(step)
    return roots, orphans


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


def _hang(said: list[Record], steps: list[Step], orphans: dict[str, list[Step]]) -> list[Step]:
    """Give each log record to its step; the steps that left no record, with what they called."""
    lost: dict[tuple[Where | None, str], Step] = {}
    for record in said:
        home = None if record.get("died_by") else _find_home(record, steps)
        if home is None:
            key = (Where.of(record), str(record.get("span_id") or ""))
            home = lost.setdefault(key, Step(None))
            if record.get("died_by"):
                home.fate = record
        home.logs.append(record)
    _join(lost)
    by_span = {span: step for (_, span), step in lost.items() if span}
    found = list(lost.values())
    for span, children in orphans.items():
        caller = by_span.get(span)
        if caller is None:
            caller = next((s for s in found if _may_have_called(s, children)), None)
        if caller is None:
            caller = Step(None)
            found.append(caller)
        caller.children += children
        caller.children.sort(key=lambda child: child.started_s)
        for child in children:
            _align(child)
    return found


def _join(lost: dict[tuple[Where | None, str], Step]) -> None:
    """A step has a span once it calls another: what it said before belongs to the same one."""
    for where in {where for where, _ in lost}:
        spans = [key for key in lost if key[0] == where and key[1]]
        if len(spans) == 1 and (where, "") in lost:
            before, step = lost.pop((where, "")), lost[spans[0]]
            step.fate = step.fate or before.fate
            step.logs = sorted([*step.logs, *before.logs], key=step.time_of)


def _may_have_called(step: Step, children: list[Step]) -> bool:
    """Whether these were called while a step ran whose end is recorded."""
    if step.fate is None:
        return False
    ended_s = step.time_of(step.fate)
    return all(step.started_s <= child.started_s <= ended_s for child in children)


def _find_home(record: Record, steps: list[Step]) -> Step | None:
    where, span_id = Where.of(record), record.get("span_id")
    own = [s for s in steps if s.access is not None and s.where == where]
    if len(own) > 1 and span_id:
        own = [s for s in own if s.access and s.access.get("span_id") == span_id] or own
    if len(own) > 1:  # the one that ran then, else the next one that ended
        own = [
            s for s in own if s.access and s.started_s <= s.time_of(record) <= s.time_of(s.access)
        ] or own
    return own[0] if own else None
