"""What an instance has, read from its goal."""

from __future__ import annotations

from serve.app.records import Present, PresentBackend
from serve.controller.goal import BackendGoal, Goal


def present_of(goal: Goal) -> Present:
    """A goal in the words of a file.

    The goal tells of each definition that an import path names enough to know whether code or
    arguments differ.
    """
    backends = {tag: _present_backend(backend) for tag, backend in goal.backends.items()}
    return Present(backends, dict(goal.endpoints), goal.logging)


def _present_backend(backend: BackendGoal) -> PresentBackend:
    return PresentBackend(backend.outline, backend.actor_options, backend.config, backend.traits)
