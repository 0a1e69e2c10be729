"""Actors outlive their controller's restarts; this tells them when it is gone for good."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator

import ray
from ray.actor import ActorHandle

from serve.ids import NAMESPACE

CHECK_S = 2.0
CHECKS = 3
END_S = 10.0
"""Longest time in which an actor whose controller is gone may close what it has, seconds."""

_EXIT_S = 10.0


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


@contextlib.contextmanager
def killed_after(limit_s: float = END_S) -> Iterator[None]:
    """Kill this actor when the block is done, or has not been within a limit.

    User code may hang in its last moments, the event loop with it, and nobody else would end it.
    """
    actor = ray.get_runtime_context().current_actor
    timer = _start_timer(limit_s, functools.partial(_kill, actor))
    try:
        yield
    finally:
        timer.cancel()
        _kill(actor)


def _kill(actor: ActorHandle) -> None:
    _start_timer(_EXIT_S, functools.partial(os._exit, 1))  # if Ray's control plane is away
    ray.kill(actor, no_restart=True)


def _start_timer(limit_s: float, act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(limit_s, act)
    timer.daemon = True
    timer.start()
    return timer
