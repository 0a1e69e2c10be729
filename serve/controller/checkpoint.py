"""The goal in Ray's internal KV: written before a change returns, read by a new controller."""

from __future__ import annotations

from ray import cloudpickle

from serve.controller.goal import Goal
from serve.ids import NAMESPACE
from serve.ray_internals import kv_delete, kv_get, kv_put

_KV_NAMESPACE = NAMESPACE.encode()


class Checkpoint:
    """One instance's checkpoint, under its controller's name."""

    def __init__(self, controller_name: str) -> None:
        self._key = f"goal:{controller_name}".encode()

    def write(self, goal: Goal) -> None:
        """Replace the stored goal."""
        kv_put(self._key, cloudpickle.dumps(goal), _KV_NAMESPACE)

    def read(self) -> Goal | None:
        """The stored goal, or None."""
        stored = kv_get(self._key, _KV_NAMESPACE)
        if stored is None:
            return None
        goal = cloudpickle.loads(stored)
        assert isinstance(goal, Goal)
        return goal

    def delete(self) -> None:
        """Forget the stored goal."""
        kv_delete(self._key, _KV_NAMESPACE)
