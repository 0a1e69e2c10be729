"""`plan(wanted, present)`: the steps from what is there to what a file wants. Pure.

New backends come up before any traffic moves, and what is not needed any more goes last, so that
requests are answered all the while. Only what the API can't change in place interrupts them: it is
refused unless the caller allows it. Rules of the order:

1. backends that are missing are created, and those that grow or change are changed;
2. endpoints move their traffic, those that need nothing of what is replaced;
3. endpoints that are removed, or must be made anew, are deleted;
4. backends that are replaced are deleted and created;
5. endpoints are created, and those that use what was replaced get their traffic;
6. backends that shrink are changed, and those that are removed are deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from serve.app.differences import (
    config_change,
    config_differences,
    endpoint_differences,
    fixed_differences,
    policy_differences,
)
from serve.app.records import Present, Problem, Wanted, WantedBackend, WantedEndpoint
from serve.app.steps import (
    Action,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Kind,
    Plan,
    SetTraffic,
    ShadowTraffic,
    Step,
    UpdateBackend,
)
from serve.controller.goal import EndpointGoal


@dataclass(slots=True)
class _Draft:
    """The steps by their place in the order, and what is told."""

    come: list[Step] = field(default_factory=list)
    move: list[Step] = field(default_factory=list)
    leave: list[Step] = field(default_factory=list)
    replace: list[Step] = field(default_factory=list)
    enter: list[Step] = field(default_factory=list)
    end: list[Step] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    refusals: list[Problem] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    """Backends that are made anew."""
    following: set[str] = field(default_factory=set)
    """Endpoints that are made anew for their backends' sake only."""

    def finish(self) -> Plan:
        steps = (*self.come, *self.move, *self.leave, *self.replace, *self.enter, *self.end)
        return Plan(steps, tuple(self.changes), tuple(self.refusals))


def plan(
    wanted: Wanted, present: Present, *, removes: bool = False, replaces: bool = False
) -> Plan:
    """What has to be done.

    Args:
        wanted: what the file describes.
        present: what the instance has.
        removes: what is there and not in the file goes.
        replaces: what can't be changed in place is deleted and made anew.
    """
    draft = _Draft()
    for backend in wanted.backends.values():
        _plan_backend(draft, backend, present)
    for endpoint in wanted.endpoints.values():
        _plan_endpoint(draft, endpoint, present)
    if not replaces:
        _refuse_replacing(draft)
    _plan_rest(draft, wanted, present, removes=removes)
    return draft.finish()


def _plan_backend(draft: _Draft, wanted: WantedBackend, present: Present) -> None:
    tag = wanted.tag
    here = present.backends.get(tag)
    if here is None:
        draft.come.append(CreateBackend(wanted))
        draft.changes.append(Change(Kind.BACKEND, tag, Action.CREATE))
        return
    fields = config_change(wanted.config, here.config, here.traits, present.logging)
    told = tuple(config_differences(fields, here.config, present.logging))
    fixed = tuple(fixed_differences(wanted, here))
    if fixed:
        draft.replaced.add(tag)
        draft.replace += [DeleteBackend(tag), CreateBackend(wanted)]
        change = Change(Kind.BACKEND, tag, Action.REPLACE, fixed + told, interrupts=True)
    elif fields:
        shrinks = fields.get("num_replicas", here.config.num_replicas) < here.config.num_replicas
        (draft.end if shrinks else draft.come).append(UpdateBackend(tag, fields))
        change = Change(Kind.BACKEND, tag, Action.UPDATE, told)
    else:
        change = Change(Kind.BACKEND, tag, Action.NOTHING)
    draft.changes.append(change)


def _plan_endpoint(draft: _Draft, wanted: WantedEndpoint, present: Present) -> None:
    name = wanted.name
    here = present.endpoints.get(name)
    if here is None:
        draft.enter += _make_endpoint(wanted)
        draft.changes.append(Change(Kind.ENDPOINT, name, Action.CREATE))
        return
    fixed = tuple(endpoint_differences(wanted, here))
    told = tuple(policy_differences(wanted, here))
    used = draft.replaced & {tag for tag, _ in here.policy.weights}
    needed = draft.replaced & {tag for tag, _ in wanted.policy.weights}
    if fixed or (used and needed):
        draft.leave.append(DeleteEndpoint(name))
        draft.enter += _make_endpoint(wanted)
        why: tuple[str, ...] = ()
        if not fixed:
            draft.following.add(name)
            why = (f"uses backend {', '.join(sorted(used))}, which is replaced",)
        change = Change(Kind.ENDPOINT, name, Action.REPLACE, fixed + told + why, interrupts=True)
    else:
        _move_traffic(draft, wanted, here, waits=bool(needed))
        change = Change(Kind.ENDPOINT, name, Action.UPDATE if told else Action.NOTHING, told)
    draft.changes.append(change)


def _make_endpoint(wanted: WantedEndpoint) -> Iterator[Step]:
    yield CreateEndpoint(wanted)
    if wanted.policy.weights != ((wanted.lead, 1.0),):
        yield SetTraffic(wanted.name, wanted.policy.weights)
    for tag, share in wanted.policy.shadows:
        yield ShadowTraffic(wanted.name, tag, share)


def _move_traffic(
    draft: _Draft, wanted: WantedEndpoint, here: EndpointGoal, *, waits: bool
) -> None:
    """The traffic of an endpoint that stays. `waits`: for a backend that is replaced."""
    shadows = dict(here.policy.shadows)
    for tag in sorted(draft.replaced & shadows.keys()):
        draft.move.append(ShadowTraffic(wanted.name, tag, 0))
        del shadows[tag]
    if wanted.policy.weights != here.policy.weights:
        whole = SetTraffic(wanted.name, wanted.policy.weights)
        (draft.enter if waits else draft.move).append(whole)
        shadows = {}
    shares = dict(wanted.policy.shadows)
    for tag in sorted(shares.keys() | shadows.keys()):
        if shares.get(tag) != shadows.get(tag):
            late = waits or tag in draft.replaced
            step = ShadowTraffic(wanted.name, tag, shares.get(tag, 0))
            (draft.enter if late else draft.move).append(step)


def _refuse_replacing(draft: _Draft) -> None:
    """Tell what could be done instead of replacing; what only follows from it is not told."""
    for change in draft.changes:
        if change.action is not Action.REPLACE:
            continue
        if change.kind is Kind.BACKEND:
            draft.refusals.append(
                Problem(
                    ("backends", change.name),
                    f"it runs already and differs in {'; '.join(change.differences)}. That can't "
                    "be changed while it runs. Give the new version a tag of its own and move the "
                    "traffic to it, or have it deleted and made anew, requests failing meanwhile, "
                    "with --replace.",
                    is_key=True,
                )
            )
        elif change.name not in draft.following:
            draft.refusals.append(
                Problem(
                    ("endpoints", change.name),
                    f"it is there already and differs in {'; '.join(change.differences)}. Route "
                    "and methods can't be changed while it is there. Give the new one a name of "
                    "its own, or have it deleted and made anew, requests failing meanwhile, with "
                    "--replace.",
                    is_key=True,
                )
            )


def _plan_rest(draft: _Draft, wanted: Wanted, present: Present, *, removes: bool) -> None:
    """What is there and not in the file."""
    action = Action.REMOVE if removes else Action.LEAVE
    for name, endpoint in present.endpoints.items():
        if name in wanted.endpoints:
            continue
        draft.changes.append(Change(Kind.ENDPOINT, name, action))
        if removes:
            draft.leave.append(DeleteEndpoint(name))
        else:
            draft.refusals += _conflicts(draft, wanted, endpoint)
    for tag in present.backends:
        if tag not in wanted.backends:
            draft.changes.append(Change(Kind.BACKEND, tag, action))
            if removes:
                draft.end.append(DeleteBackend(tag))


def _conflicts(draft: _Draft, wanted: Wanted, other: EndpointGoal) -> Iterator[Problem]:
    """How an endpoint that is not in the file, and stays, is in the way."""
    for endpoint in wanted.endpoints.values():
        if endpoint.route is not None and endpoint.route == other.route:
            yield Problem(
                ("endpoints", endpoint.name, "route"),
                f"Route '{other.route}' is endpoint '{other.name}' of the instance, which is not "
                "in this file. Choose another route, or have that endpoint removed with --remove.",
            )
    for tag in sorted(draft.replaced & set(other.policy.backend_tags)):
        yield Problem(
            ("backends", tag),
            f"it must be replaced, but endpoint '{other.name}', which is not in this file, uses "
            "it. Describe that endpoint here, or have it removed with --remove.",
            is_key=True,
        )
