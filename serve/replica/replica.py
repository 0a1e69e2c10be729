"""One replica without Ray: builds the callable, opens its ways in, runs calls, drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from typing import Any

from starlette.types import Message

from observability.instrument import tracing
from observability.instrument.access import CALLER_GONE
from observability.instrument.context import RequestContext, request_context
from observability.instrument.traceparent import parse_traceparent
from serve.call import Call
from serve.config import BackendConfig
from serve.context import ReplicaContext, set_replica_context
from serve.definition import Definition
from serve.ingress_token import make_ingress_token
from serve.records import ReplicaAddress
from serve.replica.callable import UserCallable
from serve.replica.failures import describe_failure
from serve.replica.gate import Gate
from serve.replica.http import HTTPEntry, Shadow
from serve.replica.lifespan import Lifespan
from serve.replica.loopwatch import LoopWatch
from serve.replica.records import ReplicaRecords
from serve.replica.server import HTTPServer
from serve.replica.sidecar.client import SidecarClient, is_supported
from serve.replica.sidecar.verdict import Settings
from serve.replica.spec import ReplicaSpec
from serve.replica.threads import ContextExecutor, HandlerThreads
from serve.replica.visit import Visit
from serve.request import HTTPRequest, ServeRequest, copy_facts
from serve.transport.server import CallServer

CLOSE_GRACE_S = 2.0
LOOPBACK = "127.0.0.1"


class Replica:
    """The replica that this process is.

    Args:
        spec: what to run.
        host: address of this node, listened on once other nodes are to reach the replica.
        node_id: Ray's id of this node, hexadecimal.
        actor_name: name of this actor.
        shadow: sends copies of requests to shadow backends.
        records: of this process.
        registry: folder in which the replicas of its backend on this node say where they are.
    """

    def __init__(
        self,
        spec: ReplicaSpec,
        host: str,
        node_id: str,
        actor_name: str,
        shadow: Shadow,
        records: ReplicaRecords,
        registry: str,
    ) -> None:
        self.spec = spec
        self.config_version = spec.config_version
        self._host = host
        self._node_id = node_id
        self._actor_name = actor_name
        self._shadow = shadow
        self._records = records
        self._trail = records.trail
        self._registry = registry
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
        self._sidecar: SidecarClient | None = None
        records.metrics.read_load = self._read_load
        self._loop_watch = LoopWatch(records.metrics)

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
        executor = ContextExecutor(thread_name_prefix="asyncio")
        asyncio.get_running_loop().set_default_executor(executor)
        if is_supported():  # at once: it tells how the process ended if the constructor does that
            told = (spec.config.retries, self._records.folder, self._records.static)
            settings = Settings(spec.backend_tag, spec.replica_tag, *told, self._registry)
            self._sidecar = SidecarClient(settings)
            self._sidecar.start()
        try:
            await self._build()
        except BaseException:
            if self._sidecar is not None:
                self._sidecar.stop()  # the error tells it
            raise
        if self._sidecar is not None:
            await self._sidecar.wait_until_up()
        self._loop_watch.start()
        return await self._listen()

    async def _build(self) -> None:
        """Make the callable, and start its application."""
        spec = self.spec
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

    async def execute(self, call: Call, way: str) -> Any:
        """Run one call that came through a handle. Raises what the user's code raises.

        Args:
            call: the call.
            way: `call` or `remote`, for its record.
        """
        visit = self._open_visit(call, way)
        request_context.set(visit.context)
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

    def _open_visit(self, call: Call, way: str) -> Visit:
        context = RequestContext(
            call.request_id, call.endpoint, parent_id=call.parent_id, batch_ids=call.batch_ids
        )
        if call.parent_id:  # its siblings may run here too: what each says is told apart by this
            context.refer()
        if call.traceparent or tracing.active is not None:
            caller = parse_traceparent(call.traceparent)
            tracing.join_trace(context, caller, call.tracestate)
        way = "shadow" if call.is_shadow else way
        end = self._trail.end
        return Visit(end, context, way, call.method, sent_us=call.sent_us, status=200)

    def _tell_unrun(self, message: tuple[Any, ...]) -> None:
        """A call was withdrawn before its turn came."""
        visit = self._open_visit(Call(*message), "call")
        visit.status, visit.error = CALLER_GONE, "caller_gone"
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
        if self._sidecar is not None:
            self._sidecar.configure(config.retries)
        self.config_version = version

    def _read_load(self) -> tuple[int, int]:
        """Requests that user code works for, and those that wait here."""
        waiting = self._user.waiting
        return max(0, self._gate.inside - waiting), self._gate.waiting + waiting

    def see_others(self, addresses: Iterable[ReplicaAddress]) -> None:
        """Take where the replicas of the backend are, this one among them."""
        if self._sidecar is not None:
            self._sidecar.see_others(
                each for each in addresses if each.is_reachable_from(self._node_id)
            )

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
        if self._sidecar is not None:
            self._sidecar.stop()
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
        entry = HTTPEntry(
            *(self._user, self._gate, (spec.backend_tag, spec.replica_tag), spec.middlewares),
            *(self._shadow, self._trail, spec.request_timeout_s),
        )
        flush = self._trail.flush
        token = make_ingress_token(spec.secret)
        self._http = HTTPServer(
            entry, token, entry.tag_headers, self._app_state(), flush, self._sidecar
        )
        http_port = await self._http.listen(host)
        self._calls = CallServer(
            self._execute_message,
            spec.secret,
            replica_tag=spec.replica_tag,
            before_write=flush,
            describe=describe_failure,
            unrun=self._tell_unrun,
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
