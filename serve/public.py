"""The names that people import from `serve`, which loads this file late."""

from observability.instrument.context import RequestContext, carry_context
from observability.instrument.logging_config import LoggingConfig
from serve.api import (
    connect,
    create_backend,
    create_endpoint,
    delete_backend,
    delete_endpoint,
    get_backend_config,
    get_handle,
    list_backends,
    list_endpoints,
    set_traffic,
    shadow_traffic,
    shutdown,
    start,
    update_backend_config,
)
from serve.asgi import ingress
from serve.batching import accept_batch, batch
from serve.client import Client
from serve.config import BackendConfig, HTTPOptions
from serve.context import (
    ReplicaContext,
    get_current_backend_tag,
    get_current_replica_tag,
    get_replica_context,
    get_request_context,
)
from serve.errors import (
    BackendStartError,
    QueueFullError,
    QueueTimeoutError,
    RayServeException,
    ReplicaDiedError,
    ReplicaUnavailableError,
)
from serve.exposure import expose
from serve.request import HTTPRequest, ServeRequest

__all__ = [
    "BackendConfig",
    "BackendStartError",
    "Client",
    "HTTPOptions",
    "HTTPRequest",
    "LoggingConfig",
    "QueueFullError",
    "QueueTimeoutError",
    "RayServeException",
    "ReplicaContext",
    "ReplicaDiedError",
    "ReplicaUnavailableError",
    "RequestContext",
    "ServeRequest",
    "accept_batch",
    "batch",
    "carry_context",
    "connect",
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "expose",
    "get_backend_config",
    "get_current_backend_tag",
    "get_current_replica_tag",
    "get_handle",
    "get_replica_context",
    "get_request_context",
    "ingress",
    "list_backends",
    "list_endpoints",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "start",
    "update_backend_config",
]
