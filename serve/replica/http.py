"""The HTTP way into a replica: one ASGI application around the user's callable.

HAProxy has chosen the replica and says in headers which endpoint and route it was. Every answer
carries the backend and the replica.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from observability.instrument import tracing
from observability.instrument.context import RequestContext, request_context
from observability.instrument.traceparent import join_tracestate, parse_traceparent
from serve.errors import NoAnswerError, NotExposedError, QueueTimeoutError
from serve.exposure import CALL
from serve.ids import make_request_id
from serve.replica.answers import encode_answer
from serve.replica.callable import UserCallable
from serve.replica.failures import describe_error, is_of_client, is_stopped, log_failure
from serve.replica.gate import Gate
from serve.replica.inbox import DisconnectWatch, Inbox
from serve.replica.reply import Headers, Reply
from serve.replica.sidecar.slots import ATTEMPTS_HEADER
from serve.replica.trail import ReplicaTrail
from serve.replica.visit import Visit
from serve.replica.websocket import CLOSED, FAILED, WebSocketLine
from serve.request import HTTPRequest, cross_loop_receive
from serve.routes import CompiledRoute, compile_route

logger = logging.getLogger("ray.serve")

_METHOD_HEADER = b"x-serve-call-method"
_SHADOW_HEADER = b"x-serve-shadow"

Shadow = Callable[[str, list[str], HTTPRequest], None]
"""Sends copies of a request: (endpoint, backend tags, request with its body read)."""


class HTTPEntry:
    """The replica's ASGI application.

    Args:
        user: the user's callable, built.
        gate: the limit of requests in flight.
        tags: (backend tag, replica tag).
        middlewares: `starlette.middleware.Middleware` objects, outermost first.
        shadow: sends copies to shadow backends.
        trail: hears of each request's end.
        timeout_s: after so long a silence HAProxy gives up, and tells of it, seconds.
    """

    def __init__(
        self,
        user: UserCallable,
        gate: Gate,
        tags: tuple[str, str],
        middlewares: list[Any],
        shadow: Shadow,
        trail: ReplicaTrail,
        timeout_s: float = math.inf,
    ) -> None:
        self._user = user
        self._gate = gate
        self._shadow = shadow
        self._trail = trail
        self._timeout_s = timeout_s
        self.tag_headers: Headers = [
            (b"x-serve-backend", tags[0].encode()),
            (b"x-serve-replica", tags[1].encode()),
        ]
        inner: ASGIApp = self._run_handler if user.asgi_app is None else user.asgi_app
        for middleware in reversed(middlewares):
            inner = middleware.cls(inner, *middleware.args, **middleware.kwargs)
        self._inner = inner
        self._watch = DisconnectWatch()
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        visit = self._arrive(scope, _fill_scope(scope, headers), headers.get(b"x-serve-start"))
        if ATTEMPTS_HEADER in headers:
            visit.retries = int(headers[ATTEMPTS_HEADER])
        reply = Reply(send, self.tag_headers, scope, visit, self._trail.hold, self._timeout_s)
        try:
            if not self._gate.try_enter() and not await self._wait(reply):
                return
            try:
                visit.begin()
                if scope["type"] == "http":
                    await self._serve_http(scope, receive, reply, headers)
                else:
                    await self._serve_websocket(scope, receive, reply)
            finally:
                self._gate.leave()
        finally:
            reply.end()

    def _arrive(self, scope: Scope, context: RequestContext, sent_us: bytes | None) -> Visit:
        """A request is here. `sent_us`: when HAProxy had read its head."""
        is_http = scope["type"] == "http"
        visit = Visit(
            self._trail.end,
            context,
            "http" if is_http else "websocket",
            scope["method"] if is_http else "GET",
            scope["path"],
            sent_us=int(sent_us) if sent_us is not None and sent_us.isdigit() else 0,
            bytes_out=0,
        )
        if self._trail.has_client_address and scope["client"]:
            visit.client = scope["client"][0]
        return visit

    async def _wait(self, reply: Reply) -> bool:
        """Wait for one's turn; False when it did not come, and the client knows."""
        try:
            await self._gate.wait()
        except QueueTimeoutError as error:
            await self._refuse_busy(reply, error)
            return False
        return True

    async def _refuse_busy(self, reply: Reply, error: QueueTimeoutError) -> None:
        reply.visit.error = "queue_timeout"
        await reply.refuse(503, str(error))

    async def _serve_websocket(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        if self._user.asgi_app is None:
            reply.visit.error = "no_websocket"
            await reply.refuse(
                400, "This backend takes no WebSockets: it is no ASGI application. Send plain HTTP."
            )
            return
        line = WebSocketLine(receive, reply)
        try:
            await self._inner(scope, line.receive, reply.send)
            if not reply.is_started and not line.is_disconnected:
                raise NoAnswerError("The application returned and took no WebSocket.")
            await line.close(CLOSED)
        except BaseException as error:
            if isinstance(error, (WebSocketDisconnect, OSError)) and is_of_client(error):
                await line.close(CLOSED)
                return
            if is_stopped(error):
                raise
            await self._fail(scope, reply, error)
            await line.close(FAILED, "Internal Server Error")

    async def _serve_http(
        self, scope: Scope, receive: Receive, reply: Reply, headers: dict[bytes, bytes]
    ) -> None:
        inbox = reply.inbox = Inbox(receive, asyncio.current_task(self._loop), self._watch)
        receive = inbox.receive
        try:
            if _SHADOW_HEADER in headers:
                receive = await self._copy_to_shadows(scope, receive)
            await self._inner(scope, receive, reply.send)
            if not reply.is_whole and not inbox.is_disconnected:
                raise NoAnswerError("The application returned without a whole answer.")
        except NotExposedError as error:
            reply.visit.error = "method_not_exposed"
            await reply.refuse(404, str(error))
        except BaseException as error:
            if inbox.is_disconnected and is_of_client(error):
                return  # nobody is there to be told, and nothing of ours went wrong
            if is_stopped(error):
                raise
            if isinstance(error, QueueTimeoutError) and reply.visit.is_waiting:
                await self._refuse_busy(reply, error)
                return
            await self._fail(scope, reply, error)
            if not reply.is_whole:
                raise  # an answer that has begun is cut
        finally:
            inbox.close()

    async def _fail(self, scope: Scope, reply: Reply, error: BaseException) -> None:
        """Say what went wrong, in the log and in the record; answer 500 if nothing was answered."""
        method = scope["method"] if scope["type"] == "http" else "WebSocket"
        what = f"Request {method} {scope['path']} failed"
        visit = reply.visit
        if reply.is_whole and (visit.is_ended or visit.status < 500):
            log_failure(logger, f"{what} after its answer", error)  # a background task, say
            return  # else Starlette has answered 500, and raises on
        visit.error, visit.failure = describe_error(error), error
        if reply.is_started and not reply.is_whole:
            visit.error += f" (after {visit.bytes_out} bytes of the answer)"
            what += f" after {visit.bytes_out} bytes of its answer"
        log_failure(logger, what, error)
        if not reply.is_started:
            await reply.refuse(500, "Internal Server Error")

    async def _run_handler(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope.get("serve_method", CALL)
        self._user.check_exposed(name)
        method = self._user.find(name)
        if not method.is_async:
            receive = cross_loop_receive(receive, self._loop)
        value = await self._user.run(name, method, HTTPRequest(scope, receive))
        if isinstance(value, Response):
            await value(scope, receive, send)
            return
        body, content_type = encode_answer(value)
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _copy_to_shadows(self, scope: Scope, receive: Receive) -> Receive:
        request = HTTPRequest(scope, receive)
        body = await request.body()
        tags = [value.decode() for key, value in scope["headers"] if key == _SHADOW_HEADER]
        self._shadow(scope["serve_endpoint"], tags, request)
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """What a replica needs of a route, worked out once."""

    endpoint: str
    route: str
    root_path: str | None
    pattern: CompiledRoute | None


@functools.lru_cache(maxsize=1024)
def _route_facts(endpoint: bytes, route: bytes, is_mount: bool) -> RouteFacts:
    text = route.decode()
    pattern = compile_route(text, is_mount) if "{" in text else None
    root_path = text.rstrip("/") if is_mount and pattern is None else None
    return RouteFacts(endpoint.decode(), text, root_path, pattern)


def _fill_scope(scope: Scope, headers: dict[bytes, bytes]) -> RequestContext:
    """Put what HAProxy knows of the request where handlers look for it; the request's context."""
    get = headers.get
    facts = _route_facts(
        get(b"x-serve-endpoint", b""), get(b"x-serve-route", b""), b"x-serve-mount" in headers
    )
    request_id = get(b"x-request-id")
    context = RequestContext(
        request_id.decode("latin-1") if request_id else make_request_id(),
        facts.endpoint,
        facts.route,
    )
    request_context.set(context)
    if b"traceparent" in headers:
        _join_trace(context, scope, headers)
    elif tracing.active is not None:
        tracing.active.join(context, None, "", b"x-serve-start" in headers)
    scope["serve_endpoint"] = facts.endpoint
    if facts.root_path is not None:
        scope["root_path"] = facts.root_path
    if facts.pattern is not None:
        scope["path_params"] = facts.pattern.match(scope["path"]) or {}
        if facts.pattern.is_mount:
            scope["root_path"] = facts.pattern.find_root(scope["path"])
    if _METHOD_HEADER in headers:
        scope["serve_method"] = headers[_METHOD_HEADER].decode("latin-1")
    forwarded = get(b"x-forwarded-for")
    if forwarded is not None:
        if b"," in forwarded:  # HAProxy's is the last
            forwarded = forwarded.rpartition(b",")[2].strip()
        scope["client"] = (forwarded.decode("latin-1"), 0)
    return context


def _join_trace(context: RequestContext, scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Take up the trace that the client's headers name; the standard wants exactly one."""
    parents = [value for key, value in scope["headers"] if key == b"traceparent"]
    caller = parse_traceparent(parents[0].decode("latin-1")) if len(parents) == 1 else None
    states = [value.decode("latin-1") for key, value in scope["headers"] if key == b"tracestate"]
    tracing.join_trace(
        context,
        caller,
        "" if caller is None else join_tracestate(states),
        through_ingress=b"x-serve-start" in headers,
    )
