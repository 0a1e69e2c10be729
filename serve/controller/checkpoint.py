"""The goal in Ray's internal KV: written before a change returns, read by a new controller.

Definitions, which may hold whole models, lie beside it, each once under its digest: a change of
the goal does not write them again.
"""

from __future__ import annotations

from ray import cloudpickle

from serve.controller.goal import Goal
from serve.errors import RayServeException
from serve.ids import NAMESPACE
from serve.ray_internals import kv_delete, kv_get, kv_list, kv_put

_KV_NAMESPACE = NAMESPACE.encode()
_FORM = b"tagtrail goal 2\n"
"""What a stored goal begins with. The number rises when the records in it change."""


class CheckpointError(RayServeException):
    """What is stored can't be read."""


class Checkpoint:
    """One instance's checkpoint, under its controller's name."""

    def __init__(self, controller_name: str) -> None:
        self._name = controller_name
        self._key = f"goal:{controller_name}".encode()
        self._prefix = f"definition:{controller_name}:".encode()
        self._definitions: dict[str, bytes] = {}

    def definition(self, digest: str) -> bytes:
        """A definition that the goal names."""
        return self._definitions[digest]

    def keep(self, digest: str, definition: bytes) -> None:
        """Store a definition, before a goal that names it is written."""
        if digest not in self._definitions:
            self._put(self._prefix + digest.encode(), definition)
            self._definitions[digest] = definition

    def write(self, goal: Goal) -> None:
        """Replace the stored goal; then definitions that it does not name are forgotten."""
        self._put(self._key, _FORM + cloudpickle.dumps(goal))
        for digest in self._definitions.keys() - _digests(goal):
            self._delete(self._prefix + digest.encode())
            del self._definitions[digest]

    def read(self) -> Goal | None:
        """The stored goal, or None.

        Raises:
            CheckpointError: it is there, but another version of Tagtrail wrote it.
        """
        self._definitions = {}
        stored = kv_get(self._key, _KV_NAMESPACE)
        if stored is None:
            self._sweep()
            return None
        if not stored.startswith(_FORM):
            raise CheckpointError(
                f"The goal of instance '{self._name}' was stored by another version of Tagtrail "
                "and can't be read by this one. An instance runs with one version from its start "
                "to its end: start it anew with serve.start() or 'tagtrail start', then create "
                "its backends and endpoints again ('tagtrail deploy')."
            )
        goal = cloudpickle.loads(stored[len(_FORM) :])
        assert isinstance(goal, Goal)
        for digest in _digests(goal):
            key = self._prefix + digest.encode()
            definition = kv_get(key, _KV_NAMESPACE)
            assert definition is not None  # written before the goal that names it, removed after
            self._definitions[digest] = definition
        self._sweep()
        return goal

    def delete(self) -> None:
        """Forget the stored goal and its definitions."""
        self._delete(self._key)
        self._definitions = {}
        self._sweep()

    def _sweep(self) -> None:
        """Forget what a controller left that died between two writes."""
        named = {self._prefix + digest.encode() for digest in self._definitions}
        for key in kv_list(self._prefix, _KV_NAMESPACE):
            if key not in named:
                self._delete(key)

    def _put(self, key: bytes, value: bytes) -> None:
        kv_put(key, value, _KV_NAMESPACE)

    def _delete(self, key: bytes) -> None:
        kv_delete(key, _KV_NAMESPACE)


def _digests(goal: Goal) -> set[str]:
    return {backend.digest for backend in goal.backends.values()}
