"""What the parts of a deploy hand each other: what a file wants, and what an instance has. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from observability.instrument.logging_config import LoggingConfig
from serve.config import BackendConfig, Traits
from serve.controller.goal import EndpointGoal
from serve.outline import Outline
from serve.traffic import TrafficPolicy


@dataclass(frozen=True, slots=True)
class Source:
    """What a replica builds, as a file can say it.

    Attributes:
        path: import path `package.module.Name`.
        init_args: positional arguments of the class's constructor, plain data.
        init_kwargs: its named ones.
    """

    path: str
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WantedBackend:
    """A backend as the file has it; `actor_options` with Tagtrail's own defaults filled in."""

    tag: str
    source: Source
    actor_options: dict[str, Any]
    config: BackendConfig


@dataclass(frozen=True, slots=True)
class WantedEndpoint:
    """An endpoint as the file has it. No `methods`: the default of what answers."""

    name: str
    route: str | None
    methods: tuple[str, ...] | None
    policy: TrafficPolicy

    @property
    def lead(self) -> str:
        """The backend it is created with: that with the most traffic."""
        return max(self.policy.weights, key=lambda item: item[1])[0]


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that a file describes, in its order."""

    backends: dict[str, WantedBackend]
    endpoints: dict[str, WantedEndpoint]


@dataclass(frozen=True, slots=True)
class PresentBackend:
    """A backend as the instance has it. No outline: a script's own code, not an import path."""

    outline: Outline | None
    actor_options: dict[str, Any]
    config: BackendConfig
    traits: Traits


@dataclass(frozen=True, slots=True)
class Present:
    """What an instance has; `logging` is its own, which backends go before field by field."""

    backends: dict[str, PresentBackend]
    endpoints: dict[str, EndpointGoal]
    logging: LoggingConfig = field(default_factory=LoggingConfig)


Place = tuple[str | int, ...]
"""Where in a file: `("backends", "counter", "init_args", 0)`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file.

    Attributes:
        place: where.
        message: what, what was expected, and the next step.
        is_key: the key itself is wrong, not its value.
    """

    place: Place
    message: str
    is_key: bool = False


def show_place(place: Place) -> str:
    """A place as people write it: `backends.counter.init_args[0]`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
