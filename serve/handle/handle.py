"""Handles: call an endpoint from Python, from anywhere in the cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

from ray import ObjectRef
from typing_extensions import Self

from observability.instrument.context import request_context
from serve.call import Call
from serve.handle.counts import CallCount, count_calls
from serve.handle.registry import Registry, get_registry
from serve.handle.response import Response
from serve.ids import make_request_id
from serve.traffic import split_number

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class HandleOptions:
    """How a handle calls.

    Attributes:
        method_name: method of the backend.
        shard_key: equal keys reach the same backend until the traffic changes; None: by chance.
        http_method: seen as `request.method`.
        http_headers: seen as `request.headers`.
    """

    method_name: str = "__call__"
    shard_key: str | None = None
    http_method: str = "GET"
    http_headers: dict[str, str] = field(default_factory=dict)


_UNSET: Any = object()


class _Handle:
    """What both kinds of handle do alike. Made by `serve.get_handle`."""

    def __init__(
        self, controller_name: str, endpoint_name: str, options: HandleOptions | None = None
    ) -> None:
        self.endpoint_name = endpoint_name
        self.handle_options = options or HandleOptions()
        self._controller_name = controller_name
        self._registry: Registry | None = None
        self._counted: CallCount | None = None

    def options(
        self,
        *,
        method_name: str = _UNSET,
        shard_key: str | None = _UNSET,
        http_method: str = _UNSET,
        http_headers: dict[str, str] = _UNSET,
    ) -> Self:
        """A new handle with these options; those not given stay as they are here.

        Args:
            method_name: method of the backend, default `__call__`.
            shard_key: equal keys reach the same backend until the traffic changes.
            http_method: seen as `request.method`, default `GET`.
            http_headers: seen as `request.headers`.
        """
        given: dict[str, Any] = {
            "method_name": method_name,
            "shard_key": shard_key,
            "http_method": http_method,
            "http_headers": http_headers,
        }
        changes = {name: value for name, value in given.items() if value is not _UNSET}
        options = replace(self.handle_options, **changes)
        return type(self)(self._controller_name, self.endpoint_name, options)

    def call(self, request_data: Any = None, **kwargs: Any) -> Response:
        """Call the endpoint directly: no Ray call on the way.

        Args:
            request_data: seen as `request.data`; arrays and tensors travel uncopied. An ObjectRef
                is resolved first.
            **kwargs: seen as `request.query_params`.

        Returns:
            A Response: `await` it, or `.result(timeout_s=)` in blocking code; `.cancel()` ends it.
        """
        registry = self._get_registry()
        name = f"{self.endpoint_name}.{self.handle_options.method_name}"
        call = self._make_call(request_data, kwargs)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return Response(registry.thread.submit(lambda: self._send(registry, call)), name)
        return Response(self._send(registry, call), name)

    def _send(self, registry: Registry, call: Call) -> asyncio.Future[Any]:
        router = registry.router(self.endpoint_name)
        if not isinstance(call.data, ObjectRef):
            return router.send(call)

        async def resolve_and_send() -> Any:
            return await router.send(call._replace(data=await call.data))

        return asyncio.get_running_loop().create_task(resolve_and_send())

    def _make_call(self, data: Any, kwargs: dict[str, Any]) -> Call:
        options = self.handle_options
        if self._counted is None:
            self._counted = count_calls(self.endpoint_name)
        self._counted.calls += 1
        context = request_context.get()
        return Call(
            data,
            kwargs,
            options.method_name,
            self.endpoint_name,
            make_request_id() if context is None or not context.request_id else context.request_id,
            options.http_method,
            options.shard_key,
            options.http_headers or None,
            "" if context is None else context.refer(),
            "" if context is None else context.trace_id,
            time.time_ns() // 1000,
        )

    def _get_registry(self) -> Registry:
        if self._registry is None or self._registry.is_closed:
            self._registry = get_registry(self._controller_name)
            self._registry.subscribe(self.endpoint_name)
        return self._registry

    def __repr__(self) -> str:
        return f"{type(self).__name__}(endpoint='{self.endpoint_name}')"

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, HandleOptions]]:
        return type(self), (self._controller_name, self.endpoint_name, self.handle_options)


class RayServeSyncHandle(_Handle):
    """A handle for blocking code: `ray.get(handle.remote(data))`."""

    def remote(self, request_data: Any = None, **kwargs: Any) -> ObjectRef:
        """Call the endpoint by a Ray actor call; waits only while every replica is full.

        Args:
            request_data: seen as `request.data`; an ObjectRef is resolved first.
            **kwargs: seen as `request.query_params`.

        Returns:
            An ObjectRef of the result.

        Raises:
            RayServeException: the endpoint does not exist within 5 s, or has no traffic.
            QueueTimeoutError: no replica had room within the backend's `queue_timeout_s`.
        """
        router = self._get_registry().actor_router(self.endpoint_name)
        return router.send(self._make_call(request_data, kwargs))


class RayServeHandle(_Handle):
    """A handle for `async` code: `await (await handle.remote(data))`."""

    async def remote(self, request_data: Any = None, **kwargs: Any) -> ObjectRef:
        """As RayServeSyncHandle.remote, to be awaited for the ObjectRef."""
        router = self._get_registry().actor_router(self.endpoint_name)
        call = self._make_call(request_data, kwargs)
        reference = router.try_send(call, split_number(call.shard_key))
        if reference is None:
            reference = await asyncio.to_thread(router.send, call)
        return reference
