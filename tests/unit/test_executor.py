"""The controller's hands, without Ray: what they remember, and what becomes of a failed action."""

from __future__ import annotations

import asyncio

from observability.instrument.supervision import process_troubles
from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller.executor import ACTION, Executor
from serve.controller.goal import BackendGoal, Goal
from serve.controller.observed import IngressView
from serve.controller.reconcile import ExposeReplica, ReconfigureReplica, StopIngress
from serve.controller.world import World


async def followed(timeout_s: float) -> bool:
    return True


async def test_an_action_that_fails_is_told_and_done_again() -> None:
    attempts: list[str] = []
    is_done = asyncio.Event()

    def forget(node_id: str) -> None:
        attempts.append(node_id)
        if len(attempts) == 1:
            raise OSError("not now")
        is_done.set()

    world = World()
    world.set_ingress(IngressView("n1"))
    goal = Goal(HTTPOptions(), "head", b"")
    executor = Executor("c", world, lambda: goal, lambda digest: b"", followed, forget)
    executor.perform(StopIngress("n1"))
    await asyncio.wait_for(is_done.wait(), 60)
    assert attempts == ["n1", "n1"]
    assert f"{ACTION} is failing since " in process_troubles.describe()
    process_troubles.clear(ACTION)


async def test_what_is_to_be_done_to_a_replica_that_has_ended_since_is_no_failure() -> None:
    world = World()
    world.add_replica("b#a", "b")
    backend = BackendGoal("b", "", Traits("f"), {}, BackendConfig())
    goal = Goal(HTTPOptions(), "head", b"", backends={"b": backend})
    executor = Executor("c", world, lambda: goal, lambda digest: b"", followed, lambda node: None)
    before = asyncio.all_tasks()
    for action in (ExposeReplica("b#a"), ReconfigureReplica("b#a", 2)):
        executor.perform(action)
    _, pending = await asyncio.wait(asyncio.all_tasks() - before, timeout=60)
    assert (pending, process_troubles.describe()) == (set(), "")


async def test_backends_that_are_gone_are_forgotten_once_their_replicas_are() -> None:
    backend = BackendGoal("stays", "", Traits("f"), {}, BackendConfig())
    goal = Goal(HTTPOptions(), "head", b"", backends={"stays": backend})
    world = World()
    executor = Executor("c", world, lambda: goal, lambda digest: b"", followed, lambda node: None)
    for tag in ("stays", "stops", "gone"):
        executor.remember_config(tag, BackendConfig())
        world.note_failure(tag, "no resources")
    world.add_replica("stops#a", "stops")

    executor.forget_gone()
    assert executor.known_backends == set(world.observed.failures) == {"stays", "stops"}
    world.drop_replica("stops#a")
    executor.forget_gone()
    assert executor.known_backends == set(world.observed.failures) == {"stays"}
