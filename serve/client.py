"""The connection of a process to one instance. The module functions of `serve` are its methods."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from serve.actor_options import settle_actor_options
from serve.config import BackendConfig, parse_config
from serve.controller.goal import BackendGoal, NewEndpoint, find_backend
from serve.definition import Definition, digest_of
from serve.errors import RayServeException
from serve.handle.handle import RayServeHandle, RayServeSyncHandle
from serve.handle.registry import close_registry, find_registry, get_registry
from serve.ids import NAMESPACE
from serve.routes import check_route
from serve.status import Status
from serve.validate import (
    check_methods,
    check_name,
    check_proportion,
    check_weights_type,
)

logger = logging.getLogger("ray.serve")

ANSWER_S = 120.0
"""Longest wait for an answer of the controller beyond what the call itself may take, seconds."""

NAME_GONE_S = 5.0


class Client:
    """One process's connection to an instance.

    Args:
        controller: the instance's controller.
        controller_name: its actor name.
        detached: the instance stays when this process ends.
    """

    def __init__(self, controller: ActorHandle, controller_name: str, *, detached: bool) -> None:
        self._controller = controller
        self.controller_name = controller_name
        self._detached = detached
        self._is_shut_down = False

    @property
    def is_detached(self) -> bool:
        """Whether the instance outlives this process."""
        return self._detached

    def create_backend(
        self,
        backend_tag: str,
        backend_def: Any,
        *init_args: Any,
        ray_actor_options: dict[str, Any] | None = None,
        config: BackendConfig | dict[str, Any] | None = None,
    ) -> None:
        """See serve.create_backend."""
        definition = Definition(backend_def, init_args)
        self.create_defined(backend_tag, definition, ray_actor_options, config)

    def create_defined(
        self,
        tag: str,
        definition: Definition,
        ray_actor_options: dict[str, Any] | None = None,
        config: BackendConfig | dict[str, Any] | None = None,
    ) -> None:
        """As create_backend, with a definition that may have named arguments."""
        check_name(tag, "backend_tag")
        traits = definition.inspect()
        try:
            options = settle_actor_options(ray_actor_options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Backend '{tag}': {error}") from None
        resolved = parse_config(config, "config").resolve(traits)
        packed = definition.pack()
        goal = BackendGoal(
            tag,
            digest_of(packed),
            traits,
            options,
            resolved,
            change_id=_new_id(),
            outline=definition.outline(),
        )
        limit_s = resolved.placement_timeout_s + resolved.startup_timeout_s
        self._ask("create_backend", goal, packed, limit_s=limit_s)

    def list_backends(self) -> dict[str, BackendConfig]:
        """See serve.list_backends."""
        return {tag: backend.config for tag, backend in self.status().goal.backends.items()}

    def get_backend_config(self, backend_tag: str) -> BackendConfig:
        """See serve.get_backend_config."""
        return find_backend(self.status().goal, backend_tag).config

    def update_backend_config(
        self, backend_tag: str, config_options: BackendConfig | dict[str, Any]
    ) -> None:
        """See serve.update_backend_config."""
        if config_options is None:
            raise TypeError("config_options must be a BackendConfig or dictionary. Got None.")
        change = parse_config(config_options, "config_options")
        before = self.get_backend_config(backend_tag)
        merged = before.merge(change)
        limit_s = merged.placement_timeout_s + merged.startup_timeout_s
        limit_s += merged.experimental_graceful_shutdown_timeout_s
        self._ask("update_backend_config", backend_tag, change, _new_id(), limit_s=limit_s)
        self._refresh_handles()

    def delete_backend(self, backend_tag: str, force: bool = False) -> None:
        """See serve.delete_backend."""
        config = self.list_backends().get(backend_tag, BackendConfig())
        limit_s = config.experimental_graceful_shutdown_timeout_s
        self._ask("delete_backend", backend_tag, force, _new_id(), limit_s=limit_s)

    def create_endpoint(
        self,
        endpoint_name: str,
        *,
        backend: str | None = None,
        route: str | None = None,
        methods: list[str] | None = None,
    ) -> None:
        """See serve.create_endpoint."""
        check_name(endpoint_name, "endpoint_name")
        if not isinstance(backend, str):
            raise TypeError(
                f"backend must be the tag of a backend, a str, specified. Got {backend!r}. "
                f"Example: serve.create_endpoint({endpoint_name!r}, backend='my_backend')."
            )
        if route is not None:
            if not isinstance(route, str) or not route.startswith("/"):
                raise TypeError(
                    f"route must be a str that starts with '/'. Got {route!r}. Example: "
                    "route='/my_route'."
                )
            check_route(route)
        endpoint = NewEndpoint(endpoint_name, route, check_methods(methods), backend, _new_id())
        self._ask("create_endpoint", endpoint)
        self._refresh_handles()

    def delete_endpoint(self, endpoint: str) -> None:
        """See serve.delete_endpoint."""
        self._ask("delete_endpoint", endpoint, _new_id())
        self._refresh_handles()

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """See serve.list_endpoints."""
        endpoints = self.status().goal.endpoints
        return {name: endpoint.describe() for name, endpoint in endpoints.items()}

    def set_traffic(
        self, endpoint_name: str, traffic_policy_dictionary: Mapping[str, float]
    ) -> None:
        """See serve.set_traffic."""
        weights = check_weights_type(traffic_policy_dictionary)
        self._ask("set_traffic", endpoint_name, weights, _new_id())
        self._refresh_handles()

    def shadow_traffic(self, endpoint_name: str, backend_tag: str, proportion: float) -> None:
        """See serve.shadow_traffic."""
        self._ask(
            "shadow_traffic", endpoint_name, backend_tag, check_proportion(proportion), _new_id()
        )
        self._refresh_handles()

    def get_handle(
        self, endpoint_name: str, missing_ok: bool = False, sync: bool = True
    ) -> RayServeHandle | RayServeSyncHandle:
        """See serve.get_handle."""
        self._check_alive()
        registry = get_registry(self.controller_name)
        registry.subscribe(endpoint_name).result(ANSWER_S)
        if not missing_ok and registry.get(endpoint_name) is None:
            known = ", ".join(f"'{name}'" for name in self.list_endpoints()) or "none"
            raise KeyError(
                f"Endpoint '{endpoint_name}' does not exist. Endpoints: {known}. Create it with "
                f"serve.create_endpoint({endpoint_name!r}, backend=...), or get the handle with "
                "missing_ok=True."
            )
        kind = RayServeSyncHandle if sync else RayServeHandle
        return kind(self.controller_name, endpoint_name)

    def status(self) -> Status:
        """Goal and world of the instance at one moment."""
        status: Status = self._ask("status")
        return status

    def wait_until_listening(self) -> list[str]:
        """Where the ingresses listen, once they do. ValueError when one can't bind."""
        addresses: list[str] = self._ask("wait_ingresses")
        return addresses

    def shutdown(self) -> None:
        """See serve.shutdown. A second call does nothing."""
        if self._is_shut_down or not ray.is_initialized():
            return
        try:
            self._ask("shutdown")
        except RayServeException as error:
            logger.warning("Shutdown was not clean: %s", error)
        self._is_shut_down = True
        close_registry(self.controller_name)
        ray.kill(self._controller, no_restart=True)
        deadline = time.monotonic() + NAME_GONE_S
        while time.monotonic() < deadline:
            try:
                ray.get_actor(self.controller_name, namespace=NAMESPACE)
            except ValueError:
                return
            time.sleep(0.05)
        logger.warning("Controller '%s' is still listed after shutdown.", self.controller_name)

    def __reduce__(self) -> Any:
        raise RayServeException(
            "Ray Serve client cannot be serialized. Please use serve.connect() to get a client "
            "from within a backend."
        )

    def _ask(self, method: str, *args: Any, limit_s: float = 0) -> Any:
        """Call the controller. What it raises is raised as itself."""
        self._check_alive()
        reference = getattr(self._controller, method).remote(*args)
        try:
            return ray.get(reference, timeout=limit_s + ANSWER_S)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Exception):
                raise cause from None
            raise
        except GetTimeoutError:
            raise RayServeException(
                f"The controller did not answer '{method}' within {limit_s + ANSWER_S:g} s. It may "
                "be starting anew; the change may or may not have been made. Call again."
            ) from None
        except RayActorError as error:
            raise RayServeException(
                f"The controller '{self.controller_name}' is gone: {error}. Was the instance shut "
                "down from elsewhere? Start one with serve.start()."
            ) from None

    def _check_alive(self) -> None:
        if self._is_shut_down:
            raise RayServeException(
                "Client has already been shut down. Start a new instance with serve.start(), or "
                "connect to a detached one with serve.connect()."
            )

    def _refresh_handles(self) -> None:
        registry = find_registry(self.controller_name)
        if registry is not None:
            registry.refresh()


def _new_id() -> str:
    """Of one call that changes the instance: the controller knows it when Ray sends it again."""
    return uuid.uuid4().hex
