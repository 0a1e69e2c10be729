"""What a replica is started with, and what it says once it runs.

Light to import: the controller knows no more of a replica than this, and whoever has a handle to
the controller loads its module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from observability.instrument.logging_config import LoggingConfig
from serve.config import BackendConfig, Traits
from serve.records import ReplicaAddress


@dataclass(frozen=True)
class ReplicaSpec:
    """All that a replica is started with.

    Attributes:
        controller_name: name of the controller's actor.
        replica_tag: `<backend tag>#<6 letters>`.
        backend_tag: its backend.
        definition: packed Definition.
        traits: what kind of callable it is.
        config: its backend's configuration.
        config_version: that configuration's version.
        middlewares: from HTTPOptions.
        secret: whoever calls must hold it.
        logging: the instance's; the backend's own goes before it.
        tracing: `OTEL_` variables; those of the replica's own environment go before them.
        is_exposed: other nodes are to reach it from the start on.
        preload: modules that are loaded before the user's code.
        request_timeout_s: from HTTPOptions.
    """

    controller_name: str
    replica_tag: str
    backend_tag: str
    definition: bytes
    traits: Traits
    config: BackendConfig
    config_version: int
    middlewares: list[Any]
    secret: bytes
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tracing: dict[str, str] = field(default_factory=dict, repr=False)
    is_exposed: bool = False
    preload: tuple[str, ...] = ()
    request_timeout_s: float = math.inf

    def logging_of(self, config: BackendConfig) -> LoggingConfig:
        """How records are written under a configuration of the backend."""
        own = config.logging_config
        return self.logging if own is None else own.within(self.logging)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a replica says once it runs.

    Attributes:
        address: where it is reached.
        config_version: version of the configuration it runs with.
        pid: its process.
        is_asgi: the definition is an ASGI application; of an import path, only the replica can
            tell.
    """

    address: ReplicaAddress
    config_version: int
    pid: int
    is_asgi: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """What a replica says whose constructor raised. `message`: the user's traceback."""

    message: str
