"""What the controller's hands remember, and that they do what they began, without Ray."""

from __future__ import annotations

import asyncio

from observability.instrument.supervision import process_troubles
from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller.executor import ACTION, Executor
from serve.controller.goal import BackendGoal, Goal
from serve.controller.observed import IngressView
from serve.controller.reconcile import StopIngress
from serve.controller.world import World


async def followed(timeout_s: float) -> bool:
    return True


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


async def test_an_action_that_fails_is_told_and_done_again() -> None:
    attempts: list[str] = []
    is_done = asyncio.Event()

    def forget(node_id: str) -> None:
        attempts.append(node_id)
        if len(attempts) == 1:
            raise OSError("not now")
        is_done.set()

    goal = Goal(HTTPOptions(), "head", b"")
    world = World()
    world.set_ingress(IngressView("n1"))
    executor = Executor("c", world, lambda: goal, lambda digest: b"", followed, forget)
    executor.perform(StopIngress("n1"))
    await asyncio.wait_for(is_done.wait(), 60)
    assert attempts == ["n1", "n1"]
    assert f"{ACTION} is failing since " in process_troubles.describe()
    process_troubles.clear(ACTION)
