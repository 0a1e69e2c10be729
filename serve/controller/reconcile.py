"""What to do next: `reconcile(goal, observed, now)` answers with actions. Pure.

Rules:
* A backend has `num_replicas` replicas that are not stopping. One too few is started, one too many
  stopped: those that do not run yet first, then the youngest.
* After a failed start the next one waits: 1 s, 2 s, 4 s... up to 30 s.
* A running replica is asked for a sign of life now and then; see `health`. One that did not answer
  and can't be ended has failed.
* A running replica with an older configuration is reconfigured.
* A replica that waits for resources or in its constructor for longer than its backend allows has
  failed; so has one whose process ends in the constructor twice.
* Each node that should have an ingress has one.
* With more than one node, a running replica that only its own node reaches is exposed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve.config import DeploymentMode
from serve.controller.goal import BackendGoal, Goal
from serve.controller.health import CheckReplica, RestartReplica, check_health
from serve.controller.observed import Failure, Observed, Phase, ReplicaView

BACKOFF_FIRST_S = 1.0
BACKOFF_LONGEST_S = 30.0
STARTS_ALLOWED = 2
"""Processes a replica may use up before one is through with its constructor."""
END_S = 60.0
"""Longest time that Ray may take to end a process that does not answer, seconds."""


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start one more replica of a backend; its tag is made by who acts."""

    backend_tag: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Take a replica out of the traffic, let it finish, end it."""

    replica_tag: str


@dataclass(frozen=True, slots=True)
class ReconfigureReplica:
    """Hand a running replica its backend's present configuration."""

    replica_tag: str
    version: int


@dataclass(frozen=True, slots=True)
class FailReplica:
    """End a replica that did not come up in time."""

    replica_tag: str
    message: str


@dataclass(frozen=True, slots=True)
class StartIngress:
    """Start an ingress on a node."""

    node_id: str


@dataclass(frozen=True, slots=True)
class StopIngress:
    """End the ingress of a node."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ExposeReplica:
    """Let a replica listen where other nodes reach it."""

    replica_tag: str


Action = (
    StartReplica
    | StopReplica
    | ReconfigureReplica
    | FailReplica
    | CheckReplica
    | RestartReplica
    | StartIngress
    | StopIngress
    | ExposeReplica
)


def reconcile(goal: Goal, observed: Observed, now: float) -> list[Action]:
    """The actions that bring the world nearer to the goal. `now`: the clock of the views."""
    actions: list[Action] = []
    for backend in goal.backends.values():
        replicas = replicas_of(observed, backend.tag)
        actions += _scale(backend, replicas, observed.failures.get(backend.tag), now)
        actions += _reconfigure(backend, replicas)
        actions += _expire(backend, replicas, now)
        actions += check_health(backend, replicas, now)
    for replica in observed.replicas.values():
        if replica.backend_tag not in goal.backends and replica.phase is not Phase.STOPPING:
            actions.append(StopReplica(replica.tag))
    actions += _place_ingresses(goal, observed)
    actions += _expose(observed)
    return actions


def replicas_of(observed: Observed, backend_tag: str) -> list[ReplicaView]:
    """The replicas of a backend that are not stopping, in the order of their tags."""
    views = (r for r in observed.replicas.values() if r.backend_tag == backend_tag)
    return sorted((r for r in views if r.phase is not Phase.STOPPING), key=lambda r: r.tag)


def replicas_left(observed: Observed, backend_tag: str) -> int:
    """How many replicas a backend has, those that stop too."""
    return sum(view.backend_tag == backend_tag for view in observed.replicas.values())


def is_settled(backend: BackendGoal, observed: Observed) -> bool:
    """Whether a backend is as it should be."""
    live = replicas_of(observed, backend.tag)
    return (
        len(live) == backend.config.num_replicas
        and len(live) == replicas_left(observed, backend.tag)
        and all(r.phase is Phase.RUNNING and r.config_version == backend.version for r in live)
    )


def backoff_s(failures: int) -> float:
    """How long to wait after so many failed starts in a row, seconds."""
    return min(BACKOFF_FIRST_S * 2.0 ** (min(failures, 32) - 1), BACKOFF_LONGEST_S)


def _scale(
    backend: BackendGoal, replicas: list[ReplicaView], failure: Failure | None, now: float
) -> Iterable[Action]:
    wanted = backend.config.num_replicas
    if len(replicas) < wanted:
        if failure is not None and now - failure.at < backoff_s(failure.count):
            return []
        return [StartReplica(backend.tag)] * (wanted - len(replicas))
    first_to_go = sorted(replicas, key=lambda r: (r.phase is Phase.RUNNING, -r.since, r.tag))
    return [StopReplica(replica.tag) for replica in first_to_go[: len(replicas) - wanted]]


def _reconfigure(backend: BackendGoal, replicas: list[ReplicaView]) -> Iterable[Action]:
    return [
        ReconfigureReplica(replica.tag, backend.version)
        for replica in replicas
        if replica.phase is Phase.RUNNING
        and replica.config_version != backend.version
        and not replica.is_reconfiguring
    ]


def _expire(backend: BackendGoal, replicas: list[ReplicaView], now: float) -> Iterable[Action]:
    for replica in replicas:
        waited = now - replica.since
        if replica.phase is Phase.UNRESPONSIVE and waited > END_S:
            yield FailReplica(replica.tag, _unended_message(backend, replica.tag))
        if replica.phase not in (Phase.STARTING, Phase.RESTARTING):
            continue
        if replica.starts > STARTS_ALLOWED:
            yield FailReplica(replica.tag, _ended_message(backend, replica))
        elif not replica.is_placed:
            # A node that died takes its replicas' resources along; Ray waits for others as long as
            # it takes.
            is_first = replica.phase is Phase.STARTING
            if is_first and waited > backend.config.placement_timeout_s:
                yield FailReplica(replica.tag, _unplaced_message(backend, replica.tag))
        elif waited > backend.config.startup_timeout_s:
            yield FailReplica(replica.tag, _slow_message(backend, replica.tag))


def _place_ingresses(goal: Goal, observed: Observed) -> Iterable[Action]:
    wanted: set[str] = set()
    if goal.http.location is DeploymentMode.EveryNode:
        wanted = set(observed.node_ids)
    elif goal.http.location is DeploymentMode.HeadOnly:
        wanted = {goal.head_node_id} & set(observed.node_ids)
    have = set(observed.ingresses)
    yield from (StartIngress(node_id) for node_id in sorted(wanted - have))
    yield from (StopIngress(node_id) for node_id in sorted(have - wanted))


def _expose(observed: Observed) -> Iterable[Action]:
    if not observed.has_many_nodes:
        return []
    return [
        ExposeReplica(replica.tag)
        for replica in observed.replicas.values()
        if replica.phase is Phase.RUNNING
        and replica.address is not None
        and not replica.address.is_exposed
        and not replica.is_exposing
    ]


def _unplaced_message(backend: BackendGoal, replica_tag: str) -> str:
    return (
        f"Replica '{replica_tag}' of backend '{backend.tag}' got no resources within "
        f"{backend.config.placement_timeout_s:g} s (placement_timeout_s). It asks for "
        f"{describe_resources(backend)}. Free or add resources, ask for less with "
        "ray_actor_options, or lower num_replicas."
    )


def _slow_message(backend: BackendGoal, replica_tag: str) -> str:
    return (
        f"Replica '{replica_tag}' of backend '{backend.tag}' was still in its constructor after "
        f"{backend.config.startup_timeout_s:g} s (startup_timeout_s). Raise startup_timeout_s in "
        "its config if the constructor needs longer."
    )


def _unended_message(backend: BackendGoal, replica_tag: str) -> str:
    return (
        f"Replica '{replica_tag}' of backend '{backend.tag}' did not answer its health check, and "
        f"Ray could not end its process within {END_S:g} s. Another replica takes its place; look "
        "whether its node is well ('ray status')."
    )


def _ended_message(backend: BackendGoal, replica: ReplicaView) -> str:
    return (
        f"Replica '{replica.tag}' of backend '{backend.tag}' failed to start: its process ended "
        f"{replica.starts - 1} times in its constructor without raising. Look for os._exit, a "
        "crash in a native library, or too little memory; Ray's log of the worker may name the "
        "cause."
    )


def describe_resources(backend: BackendGoal) -> str:
    """The resources of one replica, as people write them: `{'CPU': 1, 'Magic': 1}`."""
    options = backend.actor_options
    named = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    wants = {label: options[key] for key, label in named.items() if options.get(key)}
    return str({**wants, **options.get("resources", {})})
