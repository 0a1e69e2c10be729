"""Handles: call an endpoint from Python, from anywhere in the cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ray import ObjectRef
from typing_extensions import Self

from observability.instrument import tracing
from observability.instrument.context import request_context
from serve.call import Call
from serve.handle.counts import CallCount, count_calls
from serve.handle.registry import Registry, find_registry, get_registry, open_registry
from serve.handle.response import Response
from serve.handle.untold import Reason, keeps_records, tell_call
from serve.ids import make_request_id
from serve.traffic import split_number

if TYPE_CHECKING:  # it knows OpenTelemetry, which is not imported unless traces are on
    from observability.instrument.tracer import CallSpan

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
        name = f"{self.endpoint_name}.{self.handle_options.method_name}"
        future: asyncio.Future[Any] | concurrent.futures.Future[Any]
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            registry = self._get_registry("call")
            call, span = self._make_call(request_data, kwargs, "call")
            future = registry.thread.submit(lambda: self._send(registry, call))
            if span is not None:
                future.add_done_callback(span.finish)
        else:
            known = self._known_registry()
            if known is not None:
                future = self._begin(known, request_data, kwargs)
            else:
                future = self._begin_first(loop, request_data, kwargs)
        return Response(future, name)

    def _begin(self, registry: Registry, data: Any, kwargs: dict[str, Any]) -> asyncio.Future[Any]:
        """Make a call on the running loop."""
        call, span = self._make_call(data, kwargs, "call")
        future = self._send(registry, call)
        if span is not None:
            future.add_done_callback(span.finish)
        return future

    def _begin_first(
        self, loop: asyncio.AbstractEventLoop, data: Any, kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """As _begin, once the endpoint is known; the loop is free meanwhile."""
        is_made = False

        async def begin() -> Any:
            nonlocal is_made
            registry = await self._await_registry()
            is_made = True
            return await self._begin(registry, data, kwargs)

        def tell(task: asyncio.Task[Any]) -> None:
            if not is_made:
                self._tell_unmade("call", is_cancelled=task.cancelled())

        task = loop.create_task(begin())
        task.add_done_callback(tell)  # one that is cancelled at once never takes a step
        return task

    def _send(self, registry: Registry, call: Call) -> asyncio.Future[Any]:
        router = registry.router(self.endpoint_name)
        if not isinstance(call.data, ObjectRef):
            return router.send(call)

        is_sent = False

        async def resolve_and_send() -> Any:
            nonlocal is_sent
            resolved = call._replace(data=await call.data)
            is_sent = True
            return await router.send(resolved)

        def tell(task: asyncio.Task[Any]) -> None:
            if not is_sent:
                tell_call(call, "", Reason.CALLER_GONE if task.cancelled() else Reason.NOT_SENDABLE)

        task = asyncio.get_running_loop().create_task(resolve_and_send())
        task.add_done_callback(tell)
        return task

    def _make_call(
        self, data: Any, kwargs: dict[str, Any], way: str
    ) -> tuple[Call, CallSpan | None]:
        options = self.handle_options
        if self._counted is None:
            self._counted = count_calls(self.endpoint_name)
        self._counted.calls += 1
        context, span = request_context.get(), None
        request_id = (
            make_request_id() if context is None or not context.request_id else context.request_id
        )
        traceparent = tracestate = ""
        if tracing.active is not None:
            span = tracing.active.open_call(
                self.endpoint_name, options.method_name, way, request_id
            )
            traceparent, tracestate = span.traceparent, span.tracestate
        elif context is not None and context.trace is not None:
            headers = context.trace_headers
            traceparent, tracestate = headers.get("traceparent", ""), headers.get("tracestate", "")
        call = Call(
            data,
            kwargs,
            options.method_name,
            self.endpoint_name,
            request_id,
            options.http_method,
            options.shard_key,
            options.http_headers or None,
            "" if context is None else context.refer(),
            traceparent,
            tracestate,
            time.time_ns() // 1000,
            batch_ids=() if context is None else context.batch_ids,
        )
        return call, span

    def _known_registry(self) -> Registry | None:
        """The registry, if it is there and knows the endpoint."""
        if self._registry is None or self._registry.is_closed:
            registry = find_registry(self._controller_name)
            is_known = registry is not None and registry.knows(self.endpoint_name)
            self._registry = registry if is_known else None
        return self._registry

    def _tell_unmade(self, way: str, *, is_cancelled: bool) -> None:
        """The controller did not tell of the endpoint, or the caller did not wait for that."""
        if keeps_records():
            reason = Reason.CALLER_GONE if is_cancelled else Reason.NO_CONTROLLER
            call, span = self._make_call(None, {}, way)
            if span is not None:
                span.fail(reason.value[0])
            tell_call(call, "", reason, way)

    def _get_registry(self, way: str) -> Registry:
        known = self._known_registry()
        if known is None:
            try:
                known = get_registry(self._controller_name)
                known.subscribe(self.endpoint_name).result()
            except BaseException as error:
                self._tell_unmade(way, is_cancelled=not isinstance(error, Exception))
                raise
            self._registry = known
        return known

    async def _await_registry(self) -> Registry:
        """As _get_registry, with the endpoint known, without blocking the loop."""
        known = self._known_registry()
        if known is None:
            known = await asyncio.wrap_future(open_registry(self._controller_name))
            await asyncio.wrap_future(known.subscribe(self.endpoint_name))
            self._registry = known
        return known

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
        router = self._get_registry("remote").actor_router(self.endpoint_name)
        call, span = self._make_call(request_data, kwargs, "remote")
        try:
            return router.send(call, span)
        except BaseException as error:
            if span is not None:
                span.fail(error)
            raise


class RayServeHandle(_Handle):
    """A handle for `async` code: `await (await handle.remote(data))`."""

    async def remote(self, request_data: Any = None, **kwargs: Any) -> ObjectRef:
        """As RayServeSyncHandle.remote, to be awaited for the ObjectRef."""
        try:
            router = (await self._await_registry()).actor_router(self.endpoint_name)
        except BaseException as error:
            self._tell_unmade("remote", is_cancelled=not isinstance(error, Exception))
            raise
        call, span = self._make_call(request_data, kwargs, "remote")
        try:
            reference = router.try_send(call, split_number(call.shard_key), span)
            if reference is None:
                reference = await asyncio.to_thread(router.send, call, span)
            return reference
        except BaseException as error:
            if span is not None:
                span.fail(error)
            raise
