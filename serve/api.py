"""What people call: the functions of `serve`. Each talks to the instance this process belongs to.

That is the one it started or connected to; inside a backend, the one that owns the backend;
otherwise the cluster's detached instance, to which a function connects by itself.
"""

from __future__ import annotations

import atexit
import secrets
import warnings
from collections.abc import Mapping
from typing import Any, Literal, overload

import ray

from observability.instrument.logging_config import LoggingConfig
from serve.actor_options import controller_options
from serve.client import Client
from serve.config import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    BackendConfig,
    HTTPOptions,
    parse_http_options,
    parse_logging_config,
)
from serve.context import owning_controller
from serve.controller.actor import Controller
from serve.controller.goal import Goal
from serve.errors import RayServeException
from serve.handle.handle import RayServeHandle, RayServeSyncHandle
from serve.ids import DETACHED_CONTROLLER, NAMESPACE, make_controller_name
from serve.settings import read_logging_config, tracing_variables

PUBLIC = "serve.public"
"""What the user's code asks `serve` for: loaded at a replica's start, not in its first request."""

_client: Client | None = None


def start(
    detached: bool = False,
    http_host: str | None = DEFAULT_HOST,
    http_port: int = DEFAULT_PORT,
    http_middlewares: list[Any] | None = None,
    http_options: HTTPOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | dict[str, Any] | None = None,
) -> Client:
    """Start an instance on the Ray cluster; starts Ray on this machine when none is connected.

    Args:
        detached: keep running after this script ends. A cluster has at most one detached instance.
        http_host: deprecated, use http_options.
        http_port: deprecated, use http_options.
        http_middlewares: deprecated, use http_options.
        http_options: HTTPOptions or a dictionary of its fields, e.g. `{"host": "0.0.0.0", "port":
            8000}`.
        logging_config: LoggingConfig or a dictionary of its fields: how records are written, for
            all backends that do not say otherwise. What is not set is read from the environment.

    Returns:
        The client that the other functions now use.

    Raises:
        RayServeException: `detached=True`, and a detached instance runs already.
        ValueError: unknown or bad http_options or logging_config, both ways of giving http_options,
            or the address is taken.
        TimeoutError: the HTTP servers did not come up within 60 s.
    """
    options = _choose_http_options(http_host, http_port, http_middlewares, http_options)
    logging_options = parse_logging_config(logging_config).over(read_logging_config())
    if not ray.is_initialized():
        ray.init()
    if detached and _find_controller(DETACHED_CONTROLLER) is not None:
        raise RayServeException(
            "Called serve.start(detached=True) but a detached instance is already running. Please "
            "use serve.connect() to connect to the running instance instead, or end it with "
            "'tagtrail shutdown'."
        )
    client = _start_controller(detached, options, logging_options)
    try:
        client.wait_until_listening()
    except BaseException:
        client.shutdown()
        raise
    _set_client(client)
    return client


def connect() -> Client:
    """Connect to the cluster's detached instance; inside a backend, to the instance that owns it.

    Raises:
        RayServeException: there is none.
    """
    if not ray.is_initialized():
        ray.init()
    name = owning_controller() or DETACHED_CONTROLLER
    controller = _find_controller(name)
    if controller is None:
        raise RayServeException(
            "Called `serve.connect()` but there is no instance running on this Ray cluster. "
            "Please call `serve.start(detached=True) to start one."
        )
    client = Client(controller, name, detached=True)
    _set_client(client)
    return client


def shutdown() -> None:
    """End the instance that this process is connected to. Nothing to end: no error."""
    client = _client
    if client is not None:
        client.shutdown()
        _set_client(None)


def create_backend(
    backend_tag: str,
    backend_def: Any,
    *init_args: Any,
    ray_actor_options: dict[str, Any] | None = None,
    config: BackendConfig | dict[str, Any] | None = None,
) -> None:
    """Create a backend. Returns once all its replicas run; else nothing is left and it raises.

    Args:
        backend_tag: its name.
        backend_def: a function (taking the request, or nothing), a class with `__call__`, an ASGI
            application,
            a class decorated with `serve.ingress`, or an import path `module.attribute` of one.
        *init_args: arguments of the class's constructor.
        ray_actor_options: Ray options of each replica: `num_cpus` (default 1), `num_gpus`,
            `resources`, `runtime_env`... A file that `runtime_env` names (`pip`, `uv`, `conda`) is
            read here, not in the cluster. Folders are not taken: give the URI of a zip file.
        config: BackendConfig or a dictionary of its fields.

    Raises:
        ValueError: the tag is taken; bad options, those that Ray refuses included; arguments for a
            function.
        TypeError: an argument or an option of the wrong type.
        BackendStartError: a constructor raised (its traceback is in the message), took longer than
            `startup_timeout_s`, or the resources were not there within `placement_timeout_s`.
    """
    _get_client().create_backend(
        backend_tag, backend_def, *init_args, ray_actor_options=ray_actor_options, config=config
    )


def list_backends() -> dict[str, BackendConfig]:
    """The configuration of every backend, by tag."""
    return _get_client().list_backends()


def get_backend_config(backend_tag: str) -> BackendConfig:
    """A backend's configuration. ValueError for an unknown backend."""
    return _get_client().get_backend_config(backend_tag)


def update_backend_config(backend_tag: str, config_options: BackendConfig | dict[str, Any]) -> None:
    """Change a backend while it runs. Returns once the change holds; else it is undone and raised.

    Args:
        backend_tag: its name.
        config_options: the fields to change; those not set stay.

    Raises:
        TypeError: neither BackendConfig nor dictionary.
        ValueError: unknown backend, unknown field or bad value.
        BackendStartError: new replicas can't start, or the class's `reconfigure` raised.
        RayServeException: an HTTP server can't apply the change. It stays, and is tried again.
    """
    _get_client().update_backend_config(backend_tag, config_options)


def delete_backend(backend_tag: str, force: bool = False) -> None:
    """Delete a backend; returns once its replicas are gone. An unknown tag is no error.

    Args:
        backend_tag: its name.
        force: do not wait for requests that it works on.

    Raises:
        ValueError: an endpoint still uses it, in traffic or shadows.
    """
    _get_client().delete_backend(backend_tag, force)


def create_endpoint(
    endpoint_name: str,
    *,
    backend: str | None = None,
    route: str | None = None,
    methods: list[str] | None = None,
) -> None:
    """Create an endpoint; returns once every HTTP server routes to it.

    Args:
        endpoint_name: its name, for `get_handle`.
        backend: tag of the backend that gets all its traffic at first.
        route: HTTP path, `/users/{id:int}` for instance; converters are str, int, float and path.
            For an ASGI application, everything below it too. None: reached by handles only.
        methods: HTTP methods, default `["GET"]`; for an ASGI application all, it has rules of its
            own.

    Raises:
        TypeError: no backend, a route that does not start with "/", methods that are no list of
            str.
        ValueError: unknown backend; name or route taken; a route that can't be served.
        RayServeException: an HTTP server can't apply the change. It stays, and is tried again.
    """
    _get_client().create_endpoint(endpoint_name, backend=backend, route=route, methods=methods)


def delete_endpoint(endpoint: str) -> None:
    """Delete an endpoint; its backends stay. An unknown name is no error.

    Raises:
        RayServeException: an HTTP server can't apply the change. It stays, and is tried again.
    """
    _get_client().delete_endpoint(endpoint)


def list_endpoints() -> dict[str, dict[str, Any]]:
    """Each endpoint's name -> {"route", "methods", "traffic": {backend: weight}, "shadows"}."""
    return _get_client().list_endpoints()


def set_traffic(endpoint_name: str, traffic_policy_dictionary: Mapping[str, float]) -> None:
    """Share an endpoint's requests out over backends. Replaces the whole policy, shadows included.

    Args:
        endpoint_name: its name.
        traffic_policy_dictionary: backend tag -> weight; weights are at least 0 and sum to 1.

    Raises:
        ValueError: unknown endpoint or backend, negative weights, or a sum other than 1.
        RayServeException: an HTTP server can't apply the change. It stays, and is tried again.
    """
    _get_client().set_traffic(endpoint_name, traffic_policy_dictionary)


def shadow_traffic(endpoint_name: str, backend_tag: str, proportion: float) -> None:
    """Copy a share of an endpoint's requests to a backend, whose answers are thrown away.

    Args:
        endpoint_name: its name.
        backend_tag: the backend that gets the copies.
        proportion: from 0 (end it) to 1 (every request).

    Raises:
        TypeError: proportion is not a number from 0 to 1.
        ValueError: unknown endpoint or backend.
        RayServeException: an HTTP server can't apply the change. It stays, and is tried again.
    """
    _get_client().shadow_traffic(endpoint_name, backend_tag, proportion)


@overload
def get_handle(
    endpoint_name: str, missing_ok: bool = ..., sync: Literal[True] = ...
) -> RayServeSyncHandle: ...


@overload
def get_handle(
    endpoint_name: str, missing_ok: bool = ..., *, sync: Literal[False]
) -> RayServeHandle: ...


def get_handle(
    endpoint_name: str, missing_ok: bool = False, sync: bool = True
) -> RayServeHandle | RayServeSyncHandle:
    """A handle to call an endpoint from Python.

    Args:
        endpoint_name: its name.
        missing_ok: give a handle also when there is no such endpoint yet; calls wait 5 s for it.
        sync: True for blocking code; False: `remote()` is to be awaited.

    Raises:
        KeyError: no such endpoint, and missing_ok is False.
    """
    return _get_client().get_handle(endpoint_name, missing_ok, sync)


def _get_client() -> Client:
    return connect() if _client is None else _client


def _set_client(client: Client | None) -> None:
    global _client
    _client = client


def _find_controller(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _start_controller(
    detached: bool, options: HTTPOptions, logging_options: LoggingConfig
) -> Client:
    name = make_controller_name(detached)
    node_id = ray.get_runtime_context().get_node_id()
    goal = Goal(
        options,
        node_id,
        secrets.token_bytes(32),
        detached,
        logging=logging_options,
        tracing=tracing_variables(),
        preload=(PUBLIC,),
    )
    controller = (
        ray.remote(Controller)
        .options(**controller_options(name, node_id, detached=detached))
        .remote(name, goal)
    )
    client = Client(controller, name, detached=detached)
    if not detached:
        atexit.register(client.shutdown)
    return client


def _choose_http_options(
    host: str | None,
    port: int,
    middlewares: list[Any] | None,
    options: HTTPOptions | dict[str, Any] | None,
) -> HTTPOptions:
    old = {
        name: value
        for name, value, default in (
            ("host", host, DEFAULT_HOST),
            ("port", port, DEFAULT_PORT),
            ("middlewares", middlewares, None),
        )
        if value != default
    }
    if not old:
        return parse_http_options(options)
    names = ", ".join(f"`http_{name}`" for name in old)
    if options is not None:
        raise ValueError(
            f"You cannot specify both `http_options` and any of the `http_host`, `http_port`, and "
            f"`http_middlewares` arguments. Got {names} too: move them into http_options."
        )
    warnings.warn(
        f"{names} of serve.start() are deprecated, please use http_options={old!r} instead.",
        DeprecationWarning,
        stacklevel=3,
    )
    return HTTPOptions(**old)
