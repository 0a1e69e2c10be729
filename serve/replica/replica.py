"""One replica without Ray: builds the callable, opens its ways in, runs calls, drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import Message

from observability.instrument import tracing
from observability.instrument.context import RequestContext, request_context
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.traceparent import parse_traceparent
from serve.call import Call
from serve.config import BackendConfig, Traits
from serve.context import ReplicaContext, set_replica_context
from serve.definition import Definition
from serve.ingress_token import make_ingress_token
from serve.records import ReplicaAddress
from serve.replica.callable import UserCallable
from serve.replica.gate import Gate
from serve.replica.http import HTTPEntry, Shadow
from serve.replica.lifespan import Lifespan
from serve.replica.loopwatch import LoopWatch
from serve.replica.records import ReplicaRecords
from serve.replica.server import HTTPServer
from serve.replica.threads import HandlerThreads
from serve.replica.visit import Visit
from serve.request import HTTPRequest, ServeRequest, copy_facts
from serve.transport.server import CallServer

CLOSE_GRACE_S = 2.0
LOOPBACK = "127.0.0.1"


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

    def logging_of(self, config: BackendConfig) -> LoggingConfig:
        """How records are written under a configuration of the backend."""
        own = config.logging_config
        return self.logging if own is None else own.within(self.logging)


class Replica:
    """The replica that this process is.

    Args:
        spec: what to run.
        host: address of this node, listened on once other nodes are to reach the replica.
        node_id: Ray's id of this node, hexadecimal.
        actor_name: name of this actor.
        shadow: sends copies of requests to shadow backends.
        records: of this process.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        host: str,
        node_id: str,
        actor_name: str,
        shadow: Shadow,
        records: ReplicaRecords,
    ) -> None:
        self.spec = spec
        self.config_version = spec.config_version
        self._host = host
        self._node_id = node_id
        self._actor_name = actor_name
        self._shadow = shadow
        self._records = records
        self._trail = records.trail
        self._threads = HandlerThreads(spec.config.handler_threads)
        self._gate = Gate(
            spec.config.max_concurrent_queries or 1,
            spec.config.queue_timeout_s,
            f"Replica '{spec.replica_tag}'",
        )
        self._user: UserCallable
        self._address: ReplicaAddress
        self._http: HTTPServer
        self._calls: CallServer
        self._lifespan: Lifespan | None = None
        self._loop_watch = LoopWatch(records.metrics)
        records.metrics.read_load = lambda: (self._gate.inside, self._gate.waiting)

    @property
    def is_asgi(self) -> bool:
        """Whether an ASGI application answers."""
        return self._user.asgi_app is not None

    async def start(self) -> ReplicaAddress:
        """Build the callable, then listen. Raises what the user's constructor raises."""
        spec = self.spec
        set_replica_context(
            ReplicaContext(spec.backend_tag, spec.replica_tag, spec.controller_name)
        )
        definition = Definition.unpack(spec.definition)
        # Looked at anew: what an import path names was not known before.
        traits = definition.inspect()
        self._user = UserCallable(spec.backend_tag, definition, traits, spec.config, self._threads)
        await self._user.build()
        if tracing.active is not None:
            tracing.active.serve_api()  # after the user's code had the chance to do so
        self._records.attach()  # the user's code may have cleared the loggers
        if self._user.asgi_app is not None:
            self._lifespan = Lifespan(self._user.asgi_app)
            await self._lifespan.start()
        self._loop_watch.start()
        return await self._listen()

    async def execute(self, call: Call, way: str) -> Any:
        """Run one call that came through a handle. Raises what the user's code raises.

        Args:
            call: the call.
            way: `call` or `remote`, for its record.
        """
        context = RequestContext(call.request_id, call.endpoint, parent_id=call.parent_id)
        request_context.set(context)
        if call.traceparent or tracing.active is not None:
            caller = parse_traceparent(call.traceparent)
            tracing.join_trace(context, caller, call.tracestate)
        visit = Visit(
            self._trail.end,
            context,
            "shadow" if call.is_shadow else way,
            call.method,
            sent_us=call.sent_us,
            status=200,
        )
        try:
            if not self._gate.try_enter():
                await self._gate.wait()
            try:
                visit.begin()
                return await self._run(call)
            finally:
                self._gate.leave()
        except BaseException as error:
            visit.fail(error)
            raise
        finally:
            visit.end()

    async def _run(self, call: Call) -> Any:
        if isinstance(call.data, HTTPRequest) and self._user.asgi_app is not None:
            await self._run_app(call.data)
            return None
        if call.is_shadow:
            self._user.check_exposed(call.method)
        method = self._user.find(call.method)
        request: object = call.data
        if not isinstance(request, HTTPRequest):
            request = ServeRequest(call)
        return await self._user.run(call.method, method, request)

    async def reconfigure(self, config: BackendConfig, version: int) -> None:
        """Take a changed configuration. Raises what the user's `reconfigure` raises."""
        self._records.configure(self.spec.logging_of(config))
        await self._user.reconfigure(config)
        self._records.attach()  # the user's code may have cleared the loggers
        self._gate.resize(config.max_concurrent_queries or 1, config.queue_timeout_s)
        self.config_version = version

    async def drain(self, wait_loop_s: float, timeout_s: float) -> bool:
        """Let late calls come and all calls finish; whether all did within `timeout_s`.

        It waits at least `wait_loop_s`, in which those who still send here hear that they must not.
        """
        deadline = time.monotonic() + timeout_s
        self._calls.drain()
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return self._is_idle()
            await asyncio.sleep(min(wait_loop_s, left))
            if self._is_idle():
                return True
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Close every way in, run the application's shutdown, let go of the callable."""
        self._loop_watch.stop()
        await self._calls.close()
        await self._http.stop(CLOSE_GRACE_S)
        if self._lifespan is not None:
            await self._lifespan.stop()
        self._user.discard()
        self._threads.stop()

    async def expose(self) -> ReplicaAddress:
        """Listen where other nodes reach it too; its address from now on."""
        if not self._address.is_exposed:
            self._address = replace(
                self._address,
                host=self._host,
                http_port=await self._http.listen(self._host),
                call_port=await self._calls.listen(self._host),
                is_exposed=True,
            )
        return self._address

    async def _listen(self) -> ReplicaAddress:
        spec = self.spec
        host = self._host if spec.is_exposed else LOOPBACK
        tags = (spec.backend_tag, spec.replica_tag)
        entry = HTTPEntry(self._user, self._gate, tags, spec.middlewares, self._shadow, self._trail)
        flush = self._trail.flush
        token = make_ingress_token(spec.secret)
        self._http = HTTPServer(entry, token, entry.tag_headers, self._app_state(), flush)
        http_port = await self._http.listen(host)
        self._calls = CallServer(
            self._execute_message, spec.secret, replica_tag=spec.replica_tag, before_write=flush
        )
        bound = await self._calls.start(host)
        self._address = ReplicaAddress(
            spec.replica_tag,
            self._actor_name,
            self._node_id,
            host,
            http_port,
            bound.port,
            bound.socket_name,
            spec.is_exposed,
        )
        return self._address

    def _execute_message(self, message: tuple[Any, ...]) -> Awaitable[Any]:
        return self.execute(Call(*message), "call")

    async def _run_app(self, request: HTTPRequest) -> None:
        """Run the application for a copy of a request; its answer goes nowhere."""

        async def drop(message: Message) -> None:
            pass

        scope = {**copy_facts(request.scope), "state": self._app_state()}
        await self._user.asgi_app(scope, request.receive, drop)

    def _app_state(self) -> dict[str, Any]:
        return {} if self._lifespan is None else dict(self._lifespan.state)

    def _is_idle(self) -> bool:
        return self._gate.inside == 0 and self._gate.waiting == 0
