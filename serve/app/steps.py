"""What a deploy does, one call of the API a step; and what it tells of each object. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from serve.app.records import Problem, WantedBackend, WantedEndpoint


class Kind(str, Enum):
    """What an app is made of."""

    BACKEND = "backend"
    ENDPOINT = "endpoint"


class Action(str, Enum):
    """What has to be done with one object."""

    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    REMOVE = "remove"
    NOTHING = "nothing"
    LEAVE = "leave"
    """It is there and not in the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """What has to be done with one object.

    Attributes:
        kind: what it is.
        name: its tag or name.
        action: what has to be done.
        differences: what differs, as `config.num_replicas: 1 -> 2`.
        interrupts: requests are not answered while it is done.
    """

    kind: Kind
    name: str
    action: Action
    differences: tuple[str, ...] = ()
    interrupts: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CreateBackend:
    """`create_backend`."""

    backend: WantedBackend
    kind = Kind.BACKEND

    @property
    def name(self) -> str:
        """Its tag."""
        return self.backend.tag


@dataclass(frozen=True, slots=True)
class UpdateBackend:
    """`update_backend_config` with the fields that differ."""

    name: str
    fields: dict[str, Any] = field(hash=False)
    kind = Kind.BACKEND


@dataclass(frozen=True, slots=True)
class DeleteBackend:
    """`delete_backend`."""

    name: str
    kind = Kind.BACKEND


@dataclass(frozen=True, slots=True)
class CreateEndpoint:
    """`create_endpoint`, all of its traffic on one backend."""

    endpoint: WantedEndpoint
    kind = Kind.ENDPOINT

    @property
    def name(self) -> str:
        """Its name."""
        return self.endpoint.name


@dataclass(frozen=True, slots=True)
class SetTraffic:
    """`set_traffic`, which ends the shadows."""

    name: str
    weights: tuple[tuple[str, float], ...]
    kind = Kind.ENDPOINT


@dataclass(frozen=True, slots=True)
class ShadowTraffic:
    """`shadow_traffic`; a proportion of 0 ends it."""

    name: str
    tag: str
    proportion: float
    kind = Kind.ENDPOINT


@dataclass(frozen=True, slots=True)
class DeleteEndpoint:
    """`delete_endpoint`."""

    name: str
    kind = Kind.ENDPOINT


Step = (
    CreateBackend
    | UpdateBackend
    | DeleteBackend
    | CreateEndpoint
    | SetTraffic
    | ShadowTraffic
    | DeleteEndpoint
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deploy would do.

    Attributes:
        steps: in this order.
        changes: the same for each object, those that stay as they are too.
        refusals: why it can't be done; then nothing may be.
    """

    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    refusals: tuple[Problem, ...] = ()
