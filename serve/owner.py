"""Actors outlive their controller's restarts; this tells them when it is gone for good."""

from __future__ import annotations

import asyncio

import ray

from serve.ids import NAMESPACE

CHECK_S = 2.0
CHECKS = 3


async def until_owner_gone(controller_name: str) -> None:
    """Return once the controller does not exist any more: its driver was killed, say.

    A controller that Ray is restarting still exists.
    """
    missing = 0
    while missing < CHECKS:
        await asyncio.sleep(CHECK_S)
        try:
            await asyncio.to_thread(ray.get_actor, controller_name, NAMESPACE)
            missing = 0
        except ValueError:
            missing += 1
        except Exception:  # noqa: BLE001 - Ray's control plane is away, which says nothing of the owner
            missing = 0
