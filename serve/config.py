"""The options people set: checked where they are made, documented under each field.

Field names, defaults and their meaning follow Ray Serve 1.3.0; the ones it did not have say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from observability.instrument.logging_config import LoggingConfig
from serve.exposure import check_exposable

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

BLOCKING_QUERIES = 8
ASYNC_QUERIES = 100


@dataclass(frozen=True, slots=True)
class Traits:
    """What a backend's definition is, found out once when the backend is made.

    Attributes:
        name: the function's, class's or application's name.
        is_function: not a class.
        is_blocking: neither `async def` nor an ASGI application; runs in a thread.
        accepts_batches: marked with `accept_batch`; gets and returns lists.
        is_asgi: speaks ASGI by itself.
    """

    name: str
    is_function: bool = True
    is_blocking: bool = True
    accepts_batches: bool = False
    is_asgi: bool = False


class BackendConfig(BaseModel):
    """How a backend runs."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    num_replicas: PositiveInt = 1
    """Number of replica processes."""

    max_batch_size: PositiveInt | None = None
    """Largest batch for callables marked with `serve.accept_batch`. None: one request at a time."""

    batch_wait_timeout: NonNegativeFloat = 0
    """How long to wait for a batch to fill, seconds. 0: take what is there."""

    max_concurrent_queries: PositiveInt | None = None
    """Most requests in flight at a replica. None: 100 for `async` and ASGI callables, twice
    `max_batch_size` where that is set, else 8."""

    user_config: Any = None
    """Handed to the class's `reconfigure`, at the start and at each change, without a restart."""

    experimental_graceful_shutdown_wait_loop_s: NonNegativeFloat = 2.0
    """How long a replica that is to stop waits for late calls, and how often it looks, seconds."""

    experimental_graceful_shutdown_timeout_s: NonNegativeFloat = 20.0
    """After this a replica that is to stop is killed with what it still does, seconds."""

    max_queued_queries: PositiveInt = 1000
    """Most requests that wait for a free replica, at each ingress and handle. Ours, not 1.3.0's."""

    queue_timeout_s: float = Field(default=60.0, gt=0)
    """Longest such wait, seconds; then 503 or QueueTimeoutError. Ours, not 1.3.0's."""

    retries: int = Field(default=1, ge=0, le=10)
    """How many times more an HTTP request is tried that was under way when its replica died. Only
    of what is safe to repeat: GET, HEAD, OPTIONS, PUT, DELETE or TRACE without a body. Ours."""

    handler_threads: PositiveInt = 1
    """Threads for a blocking callable: requests it works on at once. Ours, not 1.3.0's."""

    placement_timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for the resources of a replica before create or update gives up, seconds.
    Not in Ray Serve 1.3.0, which waited for ever."""

    startup_timeout_s: float = Field(default=600.0, gt=0)
    """Longest time for a constructor before create or update gives up, seconds. Ours."""

    health_check_period_s: float = Field(default=10.0, gt=0)
    """How often a running replica's event loop is asked for a sign of life, seconds; looked at once
    a second. Ours, not 1.3.0's."""

    health_check_timeout_s: float = Field(default=30.0, gt=0)
    """A running replica whose event loop gives none for so long, seconds, is ended and started
    anew: an `async` handler or application that blocks the loop counts, a blocking handler, which
    runs in a thread, does not. Ours, not 1.3.0's."""

    logging_config: LoggingConfig | None = None
    """How this backend's records are written; what is not set in it is as the instance has it.
    Ours, not 1.3.0's."""

    exposed_methods: tuple[str, ...] = ()
    """Methods that HTTP requests may name in `X-Serve-Call-Method`, beside those marked with
    `@serve.expose`. Ours; Ray Serve 1.3.0 let them name all."""

    @field_validator("exposed_methods")
    @classmethod
    def _check_exposed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            check_exposable(name, "exposed_methods")
        return value

    @model_validator(mode="after")
    def _fill_concurrency(self) -> Self:
        if self.max_concurrent_queries is None:
            self.model_fields_set.discard("max_concurrent_queries")  # None asks for the default
            self._set_default_concurrency(is_blocking=True)
        return self

    def resolve(self, traits: Traits) -> BackendConfig:
        """This configuration with the defaults that depend on what the backend is."""
        config = self.model_copy()
        if "max_concurrent_queries" not in config.model_fields_set:
            config._set_default_concurrency(traits.is_blocking)
        return config

    def merge(self, change: BackendConfig) -> BackendConfig:
        """This configuration with the fields that were set in `change`; logging field by field."""
        fields = _set_fields(self) | _set_fields(change)
        if self.logging_config is not None and change.logging_config is not None:
            fields["logging_config"] = change.logging_config.over(self.logging_config)
        return BackendConfig(**fields)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """What was stored before an option came to be has that option's default."""
        super().__setstate__(state)
        for name, option in type(self).model_fields.items():
            self.__dict__.setdefault(name, option.get_default(call_default_factory=True))

    def _set_default_concurrency(self, is_blocking: bool) -> None:
        # Written past pydantic: a default that was worked out must not count as set by the user.
        batch = self.max_batch_size
        if batch is not None and (is_blocking or self.batch_wait_timeout > 0):
            default = 2 * batch
        else:
            default = BLOCKING_QUERIES if is_blocking else ASYNC_QUERIES
        self.__dict__["max_concurrent_queries"] = default


def _set_fields(config: BackendConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


class DeploymentMode(str, Enum):
    """Which nodes run an HTTP server."""

    NoServer = "NoServer"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"


class HTTPOptions(BaseModel):
    """How the HTTP side runs."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    host: str | None = DEFAULT_HOST
    """Address to listen on; `0.0.0.0` for all. None: no HTTP server."""

    port: int = Field(default=DEFAULT_PORT, ge=1, le=65535)
    """Port to listen on."""

    middlewares: list[Any] = []
    """`starlette.middleware.Middleware` objects, run in the replica around each HTTP request."""

    location: DeploymentMode | None = DeploymentMode.HeadOnly
    """HeadOnly: one server, on the node that started Serve. EveryNode: one each. NoServer: none."""

    admin_host: str | None = DEFAULT_HOST
    """Address of each ingress's metrics page, for whoever has no Ray metrics port. None: no page.
    Not in Ray Serve 1.3.0."""

    admin_port: int = Field(default=0, ge=0, le=65535)
    """Port of that page. 0: a free one, which `tagtrail status` shows. Not in Ray Serve 1.3.0."""

    request_timeout_s: float = Field(default=600.0, gt=0)
    """Longest silence of a replica before its client gets 504, seconds. Not in Ray Serve 1.3.0."""

    @model_validator(mode="after")
    def _fill_location(self) -> Self:
        if self.host is None or self.location is None:
            self.__dict__["location"] = DeploymentMode.NoServer
        return self


def parse_config(config: BackendConfig | dict[str, Any] | None, name: str) -> BackendConfig:
    """A BackendConfig from what the user gave.

    Raises:
        TypeError: it is neither a BackendConfig nor a dictionary.
        ValueError: pydantic's ValidationError, for an unknown key or a bad value.
    """
    if config is None:
        return BackendConfig()
    if isinstance(config, BackendConfig):
        return config
    if isinstance(config, dict):
        return BackendConfig(**config)
    raise TypeError(
        f"{name} must be a BackendConfig or dictionary. Got {type(config).__name__}: {config!r}. "
        f"Example: {name}={{'num_replicas': 2}}."
    )


def parse_logging_config(config: LoggingConfig | dict[str, Any] | None) -> LoggingConfig:
    """A LoggingConfig from what the user gave. Raises as `parse_config` does."""
    if config is None:
        return LoggingConfig()
    if isinstance(config, LoggingConfig):
        return config
    if isinstance(config, dict):
        return LoggingConfig(**config)
    raise TypeError(
        f"logging_config must be LoggingConfig or a dictionary. Got {type(config).__name__}. "
        "Example: logging_config={'level': 'DEBUG'}."
    )


def parse_http_options(options: HTTPOptions | dict[str, Any] | None) -> HTTPOptions:
    """HTTPOptions from what the user gave. Raises as `parse_config` does."""
    if options is None:
        return HTTPOptions()
    if isinstance(options, HTTPOptions):
        return options
    if isinstance(options, dict):
        return HTTPOptions(**options)
    raise TypeError(
        f"http_options must be HTTPOptions or a dictionary. Got {type(options).__name__}. "
        "Example: http_options={'host': '0.0.0.0', 'port': 8000}."
    )
