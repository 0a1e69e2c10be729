"""What the controller's hands remember, without Ray."""

from __future__ import annotations

from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller.executor import Executor
from serve.controller.goal import BackendGoal, Goal
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
