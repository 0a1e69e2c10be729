"""What ingresses and handles are told, worked out from the goal and the world. Pure.

One value per key: `ingress`, `endpoint/<name>` for each endpoint, `backend/<tag>` for each backend.
"""

from __future__ import annotations

from serve.controller.goal import BackendGoal, EndpointGoal, Goal
from serve.controller.observed import Observed, Phase
from serve.controller.reconcile import replicas_of
from serve.records import (
    INGRESS_KEY,
    BackendTargets,
    EndpointTargets,
    IngressRoute,
    IngressTable,
    backend_key,
    endpoint_key,
)


def publish(goal: Goal, observed: Observed) -> dict[str, object]:
    """The present value of every key."""
    targets = {tag: _targets(backend, observed) for tag, backend in goal.backends.items()}
    values: dict[str, object] = {INGRESS_KEY: _table(goal, targets)}
    for tag, backend in targets.items():
        values[backend_key(tag)] = backend
    for endpoint in goal.endpoints.values():
        values[endpoint_key(endpoint.name)] = EndpointTargets(
            endpoint.name,
            endpoint.policy,
            tuple(targets[tag] for tag in endpoint.policy.backend_tags),
        )
    return values


def _targets(backend: BackendGoal, observed: Observed) -> BackendTargets:
    running = (
        replica.address
        for replica in replicas_of(observed, backend.tag)
        if replica.phase is Phase.RUNNING and replica.address is not None
    )
    config = backend.config
    assert config.max_concurrent_queries is not None  # resolve() has filled it
    return BackendTargets(
        backend.tag,
        tuple(running),
        config.max_concurrent_queries,
        config.max_queued_queries,
        config.queue_timeout_s,
    )


def _table(goal: Goal, targets: dict[str, BackendTargets]) -> IngressTable:
    used = {tag for endpoint in goal.endpoints.values() for tag in endpoint.policy.backend_tags}
    return IngressTable(
        tuple(_route(endpoint) for endpoint in goal.endpoints.values()),
        tuple(targets[tag] for tag in sorted(used)),
    )


def _route(endpoint: EndpointGoal) -> IngressRoute:
    return IngressRoute(
        endpoint.name, endpoint.route, endpoint.methods, endpoint.is_mount, endpoint.policy
    )
