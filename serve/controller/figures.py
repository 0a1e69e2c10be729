"""The controller's metrics, from what it sees. Pure."""

from __future__ import annotations

from observability import catalog
from observability.instrument.numbers import Family
from serve.controller.observed import Observed


def controller_families(observed: Observed, loop_ms: float) -> list[Family]:
    """The families as they are now.

    Args:
        observed: replicas and their states.
        loop_ms: how long the last step of the control loop took, milliseconds.
    """
    starts = Family(catalog.REPLICA_STARTS)
    states = Family(catalog.REPLICA_STATE)
    for view in observed.replicas.values():
        starts.set((view.backend_tag, view.tag), float(view.restarts))
        states.set((view.backend_tag, view.tag, view.phase.value), 1.0)
    loop = Family(catalog.CONTROLLER_LOOP)
    loop.set((), loop_ms)
    return [starts, states, loop]
