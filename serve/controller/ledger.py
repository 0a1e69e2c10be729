"""Which calls have changed the goal, and how they ended: one that is sent again changes nothing.

Ray sends a call again when the controller died before it had answered, also one that was done, and
after others that came meanwhile. So each bears an id, and the goal, which survives the controller,
knows the latest. Pure.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from serve.controller import goal as goals
from serve.controller.goal import BackendGoal, Change, Goal, Outcome

KEPT = 128
"""Changes that are remembered: a call is sent again within seconds of the controller's return."""


def done(goal: Goal, change_id: str) -> Goal:
    """The goal with a change that needs nothing more to be answered than that it is followed."""
    return _with(goal, Change(change_id, Outcome.DONE))


def begun(goal: Goal, change_id: str, tag: str, before: BackendGoal | None = None) -> Goal:
    """The goal with a change of a backend that may still fail; the goal holds it already.

    Args:
        goal: the next goal.
        change_id: of the call.
        tag: the backend's.
        before: the backend as it was; None when the call creates it.
    """
    after = goal.backends[tag]
    change = Change(change_id, Outcome.BEGUN, tag, after.change_id, after.version, before)
    return _with(goal, change)


def failed(goal: Goal, change_id: str, error: str) -> Goal:
    """The goal without what a change did, unless others built on it; that it failed is kept."""
    change = goal.changes.get(change_id)
    if change is None:
        return goal
    return _with(_undone(goal, change), Change(change_id, Outcome.FAILED, error=error))


def is_still(goal: Goal, change: Change) -> bool:
    """Whether the backend that a change was made to is still the same one."""
    current = goal.backends.get(change.tag)
    return current is not None and current.change_id == change.made_by


def _undone(goal: Goal, change: Change) -> Goal:
    current = goal.backends.get(change.tag)
    if current is None or not is_still(goal, change):
        return goal  # deleted meanwhile, and perhaps made anew by another call
    if change.before is None:
        with contextlib.suppress(ValueError):  # an endpoint uses it already: it stays, and is tried
            return goals.delete_backend(goal, change.tag)
    elif current.version == change.version:
        before = replace(change.before, version=change.version + 1)
        return replace(goal, backends={**goal.backends, change.tag: before})
    return goal


def _with(goal: Goal, change: Change) -> Goal:
    others = {k: v for k, v in goal.changes.items() if k != change.change_id}
    kept = dict(list(others.items())[-(KEPT - 1) :])
    return replace(goal, changes={**kept, change.change_id: change})
