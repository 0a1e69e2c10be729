"""An instance's status as plain data, for `tagtrail status --json` and for its table. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve.controller.goal import BackendGoal, Goal
from serve.controller.health import LATE_S, unanswered_s
from serve.controller.observed import Observed, Phase


@dataclass(frozen=True)
class Status:
    """What `tagtrail status` shows. Goal, without its secrets, and world at one moment."""

    goal: Goal
    observed: Observed
    pid: int
    trouble: str = ""
    """What fails in the controller's own process, and since when; "" when nothing does."""
    now: float = 0.0
    """When it was made, seconds of the clock of the views."""


def describe(status: Status, controller_name: str) -> dict[str, Any]:
    """The status as JSON-able data.

    Returns:
        `{"healthy", "controller": {"name", "pid"}, "http": {...}, "ingresses": [...], "endpoints":
        [...],
        "backends": [{"tag", "healthy", "goal", "running", "replicas": [...], "last_error"}],
        "troubles": [...]}`. A trouble is a sentence: what fails where, since when and why. A
        replica's `unanswered_s` is for how long it has owed its event loop's sign of life.
    """
    ingresses = [
        {
            "node_id": view.node_id,
            "node": view.node_address,
            "address": view.address,
            "metrics": view.admin_address and f"http://{view.admin_address}/metrics",
            "error": view.error,
            "refused": view.refused,
        }
        for view in status.observed.ingresses.values()
    ]
    backends = [_backend(backend, status) for backend in status.goal.backends.values()]
    http = status.goal.http
    troubles = _troubles(status)
    return {
        "healthy": all(b["healthy"] for b in backends)
        and all(i["address"] and not i["refused"] for i in ingresses)
        and not troubles,
        "controller": {"name": controller_name, "pid": status.pid},
        "http": {"host": http.host, "port": http.port, "location": str(http.location.value)}
        if http.location is not None
        else None,
        "ingresses": ingresses,
        "endpoints": [
            {"name": endpoint.name, **endpoint.describe()}
            for endpoint in status.goal.endpoints.values()
        ],
        "backends": backends,
        "troubles": troubles,
    }


def find_silent(status: Status) -> dict[str, str]:
    """Replicas that do not answer their health check: a clause for people each, by tag."""
    found = {}
    for tag, replica in sorted(status.observed.replicas.items()):
        owed_s = unanswered_s(replica, status.now)
        if replica.phase is Phase.UNRESPONSIVE or owed_s >= LATE_S:
            since = f": no sign of life from its event loop for {owed_s:.0f} s" if owed_s else ""
            found[tag] = (
                f"replica '{tag}' of backend '{replica.backend_tag}' does not answer its health "
                f"check{since}"
            )
    return found


def _troubles(status: Status) -> list[str]:
    """What fails in processes that go on, with the name of each."""
    observed = status.observed
    named = [
        ("Controller", status.trouble),
        *((f"Ingress on node {i.node_address}", i.trouble) for i in observed.ingresses.values()),
        *((f"Replica '{r.tag}'", r.trouble) for r in observed.replicas.values()),
    ]
    return [f"{name}: {trouble}" for name, trouble in named if trouble]


def _backend(backend: BackendGoal, status: Status) -> dict[str, Any]:
    replicas = sorted(
        (r for r in status.observed.replicas.values() if r.backend_tag == backend.tag),
        key=lambda r: r.tag,
    )
    running = sum(
        r.phase is Phase.RUNNING and r.config_version == backend.version for r in replicas
    )
    failure = status.observed.failures.get(backend.tag)
    return {
        "tag": backend.tag,
        "callable": backend.traits.name,
        "healthy": running == backend.config.num_replicas == len(replicas),
        "goal": backend.config.num_replicas,
        "running": running,
        "max_concurrent_queries": backend.config.max_concurrent_queries,
        "replicas": [
            {
                "tag": replica.tag,
                "phase": replica.phase.value,
                "restarts": replica.restarts,
                "unanswered_s": round(unanswered_s(replica, status.now), 1),
                "node_id": replica.address.node_id if replica.address else None,
                "http": f"{replica.address.host}:{replica.address.http_port}"
                if replica.address
                else None,
            }
            for replica in replicas
        ],
        "last_error": failure.message if failure else None,
    }
