"""What an instance has, read from its goal."""

from __future__ import annotations

from serve.app.records import Present, PresentBackend, Source
from serve.controller.goal import BackendGoal, Goal
from serve.definition import Definition


def present_of(goal: Goal) -> Present:
    """A goal in the words of a file.

    The goal holds each definition as it was packed, and one that a file described is plain data:
    nothing has to be kept beside it to know whether code or arguments differ.
    """
    backends = {tag: _present_backend(backend) for tag, backend in goal.backends.items()}
    return Present(backends, dict(goal.endpoints), goal.logging)


def _present_backend(backend: BackendGoal) -> PresentBackend:
    plain = Definition.read_plain(backend.definition)
    source = Source(plain.target, plain.init_args, plain.init_kwargs) if plain else None
    return PresentBackend(source, backend.actor_options, backend.config, backend.traits)
