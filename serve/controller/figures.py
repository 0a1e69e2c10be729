"""The controller's metrics, from what it sees. Pure."""

from __future__ import annotations

from observability import catalog
from observability.fields import Component
from observability.instrument.numbers import Family, record_families
from serve.config import DeploymentMode
from serve.controller.goal import Goal
from serve.controller.observed import Observed
from serve.ids import ingress_actor_name


def number_sources(controller_name: str, goal: Goal, observed: Observed, page_of: str) -> list[str]:
    """Names of the actors whose metrics belong together on a page.

    With an ingress on every node each tells of its own node, so that nothing is there twice.

    Args:
        controller_name: the controller's actor.
        goal: the goal.
        observed: the replicas and ingresses that there are.
        page_of: node of the ingress whose page it is, which has its own metrics already; "": a
            list of everything.
    """
    is_whole = not page_of or goal.http.location is not DeploymentMode.EveryNode
    names = [
        view.address.actor_name
        for view in observed.replicas.values()
        if view.address is not None and (is_whole or view.address.node_id == page_of)
    ]
    if is_whole or page_of == goal.head_node_id:
        names.append(controller_name)
    if not page_of:
        names += [ingress_actor_name(controller_name, node_id) for node_id in observed.ingresses]
    return names


def controller_families(
    observed: Observed, loop_ms: float, written: int, dropped: int
) -> list[Family]:
    """The families as they are now.

    Args:
        observed: replicas and their states.
        loop_ms: how long the last step of the control loop took, milliseconds.
        written: records in its segments.
        dropped: records that could not be written.
    """
    starts = Family(catalog.REPLICA_STARTS)
    states = Family(catalog.REPLICA_STATE)
    for view in observed.replicas.values():
        starts.set((view.backend_tag, view.tag), float(view.restarts))
        states.set((view.backend_tag, view.tag, view.phase.value), 1.0)
    loop = Family(catalog.CONTROLLER_LOOP)
    loop.set((), loop_ms)
    return [starts, states, loop, *record_families(Component.CONTROLLER, written, dropped)]
