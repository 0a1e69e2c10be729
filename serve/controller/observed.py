"""What the controller sees of the world: frozen views, replaced as events come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from serve.records import ReplicaAddress


class Phase(str, Enum):
    """Where a replica is in its life.

    STARTING -> RUNNING -> STOPPING, and RUNNING -> RESTARTING -> RUNNING when its process died and
    Ray starts it anew. RUNNING -> UNRESPONSIVE -> RESTARTING when its event loop did not answer and
    the process is ended for it. A replica that can't come back is dropped from the view.
    """

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    UNRESPONSIVE = "UNRESPONSIVE"
    RESTARTING = "RESTARTING"
    STOPPING = "STOPPING"


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as seen.

    Attributes:
        tag: its replica tag.
        backend_tag: its backend.
        phase: see Phase.
        since: when it entered the phase, seconds of the controller's monotonic clock.
        is_placed: it has its resources and a process.
        address: last known address; None before the first RUNNING.
        config_version: version of the configuration it runs with, 0 before the first RUNNING.
        restarts: how often its process was started anew after a failure.
        is_reconfiguring: a reconfigure call is under way.
        starts: processes it has begun since it last ran.
        is_asgi: it said that its definition is an ASGI application.
        is_exposing: a call that makes it reachable from other nodes is under way.
        trouble: what fails in its process while it serves, and since when; "" when nothing does.
        heard_at: when its event loop gave a sign of life last, or could first have given one;
            seconds of the controller's monotonic clock.
        asked_at: since when it owes one; None: it does not.
        is_asked_busy: it took a configuration when it was asked.
    """

    tag: str
    backend_tag: str
    phase: Phase
    since: float
    is_placed: bool = False
    address: ReplicaAddress | None = None
    config_version: int = 0
    restarts: int = 0
    is_reconfiguring: bool = False
    starts: int = 0
    is_asgi: bool = False
    is_exposing: bool = False
    trouble: str = ""
    heard_at: float = 0.0
    asked_at: float | None = None
    is_asked_busy: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Why replicas of a backend did not come up, lately.

    Attributes:
        count: failures in a row.
        at: time of the last one, seconds of the controller's monotonic clock.
        message: the last one, with the user's traceback where there is one.
    """

    count: int
    at: float
    message: str


@dataclass(frozen=True, slots=True)
class IngressView:
    """One ingress as seen.

    Attributes:
        node_id: its node.
        address: where it listens, once it does.
        admin_address: where its metrics page is; "" without one.
        node_address: of its node, as Ray has it.
        error: why it does not listen.
        trouble: what fails in its process while it listens, and since when; "" when nothing does.
        refused: why it can't apply what the controller says; "" if it can.
    """

    node_id: str
    address: str = ""
    admin_address: str = ""
    node_address: str = ""
    error: str = ""
    trouble: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """The world at one moment.

    Attributes:
        replicas: by replica tag.
        ingresses: by node id.
        failures: by backend tag, for backends whose last start failed.
        node_ids: nodes that are alive.
    """

    replicas: Mapping[str, ReplicaView] = field(default_factory=lambda: MappingProxyType({}))
    ingresses: Mapping[str, IngressView] = field(default_factory=lambda: MappingProxyType({}))
    failures: Mapping[str, Failure] = field(default_factory=lambda: MappingProxyType({}))
    node_ids: tuple[str, ...] = ()

    @property
    def has_many_nodes(self) -> bool:
        """Whether somebody on another node may want to reach a replica."""
        return len(self.node_ids) > 1

    @property
    def backend_tags(self) -> set[str]:
        """Backends that have a replica, be it one that stops."""
        return {view.backend_tag for view in self.replicas.values()}
