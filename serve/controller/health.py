"""Which replicas to ask for a sign of life, and which have owed one for too long. Pure.

A replica in its constructor is not asked. One that is asked while it takes a configuration is given
the time of a constructor: users load their models in `reconfigure` too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve.controller.goal import BackendGoal
from serve.controller.observed import Phase, ReplicaView

STEP_S = 3.0
"""Longest time between two steps of the control loop that counts as waiting, seconds."""

LATE_S = 5.0
"""After this people are told that a replica owes a sign of life, seconds."""


@dataclass(frozen=True, slots=True)
class CheckReplica:
    """Ask a running replica's event loop for a sign of life."""

    replica_tag: str


@dataclass(frozen=True, slots=True)
class RestartReplica:
    """End the process of a replica that does not answer, so that Ray starts it anew."""

    replica_tag: str
    message: str


def check_health(
    backend: BackendGoal, replicas: Iterable[ReplicaView], now: float
) -> Iterable[CheckReplica | RestartReplica]:
    """What is due for a backend's replicas. `now`: the clock of the views."""
    for replica in replicas:
        if replica.phase is not Phase.RUNNING:
            continue
        if replica.asked_at is None:
            if now - replica.heard_at >= backend.config.health_check_period_s:
                yield CheckReplica(replica.tag)
            continue
        option, limit_s = _limit(backend, replica)
        if now - replica.asked_at > limit_s:
            yield RestartReplica(replica.tag, _message(backend, replica, option, limit_s))


def unanswered_s(replica: ReplicaView, now: float) -> float:
    """For how long a replica has owed a sign of life, seconds."""
    return 0.0 if replica.asked_at is None else max(0.0, now - replica.asked_at)


def stood_still_s(before: float, now: float) -> float:
    """How much of the time between two steps of the control loop is not to be counted, seconds.

    The controller was stopped, say, or waited for Ray's control plane: answers that came meanwhile
    are not heard yet.
    """
    return max(0.0, now - before - STEP_S)


def _limit(backend: BackendGoal, replica: ReplicaView) -> tuple[str, float]:
    """Name and value of the option that limits the wait."""
    config = backend.config
    if replica.is_asked_busy and config.startup_timeout_s > config.health_check_timeout_s:
        return "startup_timeout_s, as it was reconfigured", config.startup_timeout_s
    return "health_check_timeout_s", config.health_check_timeout_s


def _message(backend: BackendGoal, replica: ReplicaView, option: str, limit_s: float) -> str:
    return (
        f"Replica '{replica.tag}' of backend '{backend.tag}' does not answer its health check: no "
        f"sign of life from its event loop within {limit_s:g} s ({option}). It is ended and "
        f"started anew. 'tagtrail logs --replica {replica.tag}' tells what held it up; blocking "
        "code belongs in a 'def' handler or in asyncio.to_thread()."
    )
