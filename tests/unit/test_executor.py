"""An action of the controller that fails is told, and done again until it is done."""

from __future__ import annotations

import asyncio

from observability.instrument.supervision import process_troubles
from serve.controller.executor import ACTION, Executor
from serve.controller.observed import IngressView
from serve.controller.reconcile import StopIngress
from serve.controller.world import World


async def test_an_action_that_fails_is_told_and_done_again() -> None:
    attempts: list[str] = []
    is_done = asyncio.Event()

    def forget(node_id: str) -> None:
        attempts.append(node_id)
        if len(attempts) == 1:
            raise OSError("not now")
        is_done.set()

    async def applied(timeout_s: float) -> bool:
        return True

    world = World()
    world.set_ingress(IngressView("n1"))
    executor = Executor("c", world, lambda: None, applied, forget)  # type: ignore[arg-type, return-value]
    executor.perform(StopIngress("n1"))
    await asyncio.wait_for(is_done.wait(), 60)
    assert attempts == ["n1", "n1"]
    assert f"{ACTION} is failing since " in process_troubles.describe()
    process_troubles.clear(ACTION)
