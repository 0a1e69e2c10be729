"""Which replicas are asked for a sign of life, and which have owed one for too long."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from serve.config import BackendConfig, Traits
from serve.controller.goal import BackendGoal
from serve.controller.health import (
    CheckReplica,
    RestartReplica,
    check_health,
    stood_still_s,
    unanswered_s,
)
from serve.controller.observed import Observed, Phase, ReplicaView
from serve.controller.reconcile import END_S, FailReplica, is_settled, reconcile
from serve.controller.world import World
from tests.unit.test_reconcile import goal_of

CONFIG = BackendConfig(health_check_period_s=10, health_check_timeout_s=30, startup_timeout_s=600)
BACKEND = BackendGoal("a", "", Traits("handler"), {}, CONFIG, 1)


def view(phase: Phase = Phase.RUNNING, **facts: Any) -> ReplicaView:
    return ReplicaView("a#1", "a", phase, 0.0, config_version=1, **facts)


def due(replica: ReplicaView, now: float) -> list[CheckReplica | RestartReplica]:
    return list(check_health(BACKEND, [replica], now))


def test_a_running_replica_is_asked_once_a_period() -> None:
    assert due(view(heard_at=100), 109.9) == []
    assert due(view(heard_at=100), 110) == [CheckReplica("a#1")]


def test_a_replica_that_was_asked_is_not_asked_again_before_it_answers() -> None:
    assert due(view(heard_at=100, asked_at=110), 140) == []


def test_a_replica_that_does_not_answer_in_time_is_restarted_and_the_option_named() -> None:
    (action,) = due(view(asked_at=110), 140.1)
    assert isinstance(action, RestartReplica) and action.replica_tag == "a#1"
    assert "'a#1' of backend 'a' does not answer its health check" in action.message
    assert "within 30 s (health_check_timeout_s)" in action.message
    assert "tagtrail logs --replica a#1" in action.message


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.RUNNING])
def test_a_replica_that_does_not_run_owes_nothing(phase: Phase) -> None:
    assert due(view(phase), 1e6) == []
    assert due(view(phase, asked_at=1.0), 1e6) == []


def test_a_replica_that_takes_a_configuration_has_the_time_of_a_constructor() -> None:
    busy = view(asked_at=0, is_asked_busy=True)
    assert due(busy, 600) == []
    (action,) = due(busy, 600.1)
    assert isinstance(action, RestartReplica)
    assert "within 600 s (startup_timeout_s" in action.message


def test_an_unresponsive_replica_is_waited_for_and_not_doubled() -> None:
    world = Observed({"a#1": view(Phase.UNRESPONSIVE)})
    assert reconcile(goal_of(BACKEND), world, END_S) == []
    assert not is_settled(BACKEND, world)


def test_an_unresponsive_replica_that_cannot_be_ended_fails() -> None:
    world = Observed({"a#1": view(Phase.UNRESPONSIVE)})
    (action,) = reconcile(goal_of(BACKEND), world, END_S + 0.1)
    assert isinstance(action, FailReplica)
    assert "Ray could not end its process" in action.message


def test_for_how_long_a_replica_has_owed_an_answer() -> None:
    assert unanswered_s(view(), 50) == 0
    assert unanswered_s(view(asked_at=20), 50) == 30


def test_only_a_long_pause_of_the_controller_is_taken_out_of_the_wait() -> None:
    assert stood_still_s(100, 101) == 0
    assert stood_still_s(100, 163) == 60


# What the World makes of it.


def running_world() -> World:
    world = World()
    world.add_replica("a#1", "a")
    world.change_replica("a#1", phase=Phase.RUNNING)
    return world


def seen(world: World) -> ReplicaView:
    return world.observed.replicas["a#1"]


async def test_an_answer_ends_the_wait_and_wakes_nobody() -> None:
    world = running_world()
    woken = asyncio.create_task(world.changed(60))
    await asyncio.sleep(0)
    asked_at = world.ask_replica("a#1")
    assert seen(world).asked_at == asked_at
    world.hear_replica("a#1", asked_at)
    assert seen(world).asked_at is None
    assert seen(world).heard_at >= asked_at
    await asyncio.sleep(0)
    assert not woken.done()
    woken.cancel()


async def test_when_the_controller_stood_still_nobody_is_blamed_for_it() -> None:
    world = running_world()
    asked_at = world.ask_replica("a#1")
    world.begin_step(time.monotonic() + 1000)
    owed_since = seen(world).asked_at
    assert owed_since is not None and owed_since - asked_at > 990
    world.hear_replica("a#1", asked_at)
    assert seen(world).asked_at is None


async def test_a_configuration_does_not_excuse_a_replica_that_owed_an_answer_before() -> None:
    world = running_world()
    world.ask_replica("a#1")
    world.change_replica("a#1", is_reconfiguring=True)
    assert seen(world).asked_at is not None and not seen(world).is_asked_busy
    world.change_replica("a#1", is_reconfiguring=False)
    world.change_replica("a#1", is_reconfiguring=True)
    world.ask_replica("a#1")
    assert seen(world).is_asked_busy


@pytest.mark.parametrize("change", [{"phase": Phase.RESTARTING}, {"is_reconfiguring": False}])
async def test_what_begins_anew_owes_no_answer(change: dict[str, Any]) -> None:
    world = running_world()
    world.change_replica("a#1", is_reconfiguring=True)
    before = seen(world).heard_at
    world.ask_replica("a#1")
    world.change_replica("a#1", trouble="something else")
    assert seen(world).asked_at is not None
    world.change_replica("a#1", **change)
    assert seen(world).asked_at is None
    assert seen(world).heard_at >= before


async def test_what_is_gone_owes_nothing() -> None:
    world = World()
    world.hear_replica("a#1", world.ask_replica("a#1"))
    assert world.observed.replicas == {}
