"""The HTTP way into a replica, driven as the ASGI application that it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import serve
from observability.instrument.context import request_context
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from serve.config import BackendConfig
from serve.definition import Definition, inspect_target
from serve.ids import is_request_id
from serve.replica import inbox
from serve.replica.callable import UserCallable
from serve.replica.gate import Gate
from serve.replica.http import HTTPEntry
from serve.replica.metrics import ReplicaMetrics
from serve.replica.threads import HandlerThreads
from serve.replica.trail import ReplicaTrail
from serve.request import HTTPRequest

Shadows = list[tuple[str, list[str], HTTPRequest]]


@dataclass
class Answer:
    """What the application sent."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.messages[0]["headers"]}

    @property
    def chunks(self) -> list[bytes]:
        return [message.get("body", b"") for message in self.messages[1:]]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


@dataclass
class Replica:
    """An HTTPEntry with what it needs, and the server's side of it."""

    entry: HTTPEntry
    gate: Gate
    shadows: Shadows
    disconnect: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, path: str = "/f", body: bytes = b"", **options: Any) -> Answer:
        answer, is_complete = Answer(), asyncio.Event()
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:  # as uvicorn: after the answer, too, the client is "gone"
            if parts:
                return parts.pop()
            ends = [asyncio.ensure_future(e.wait()) for e in (self.disconnect, is_complete)]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            answer.messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                is_complete.set()

        await self.entry(scope_of(path, **options), receive, send)
        return answer


def scope_of(path: str, **options: Any) -> dict[str, Any]:
    headers = options.pop("headers", {})
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        **options,
    }


Make = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a replica's HTTP entry around a callable."""
    made: list[HandlerThreads] = []

    async def make_replica(
        target: Any,
        *init_args: Any,
        middlewares: list[Any] | None = None,
        limit: int = 8,
        queue_timeout_s: float = 5,
    ) -> Replica:
        threads = HandlerThreads(1)
        made.append(threads)
        traits = inspect_target(target, init_args)
        user = UserCallable(
            "model", Definition(target, init_args), traits, BackendConfig(), threads
        )
        await user.build()
        writer = SegmentWriter(str(tmp_path), "replica_model#abcdef", Retention())
        metrics = ReplicaMetrics("model", "model#abcdef")
        gate, shadows = Gate(limit, queue_timeout_s, "Replica 'model#abcdef'"), Shadows()
        entry = HTTPEntry(
            user,
            gate,
            ("model", "model#abcdef"),
            middlewares or [],
            lambda *copy: shadows.append(copy),
            ReplicaTrail(writer, {"component": "serve"}, metrics, LoggingConfig()),
        )
        return Replica(entry, gate, shadows)

    yield make_replica
    for threads in made:
        threads.stop()


@pytest.fixture
def watch_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "TICK_S", 0.001)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the `ray.serve` logger writes; Ray's own loggers do not propagate."""
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


async def test_a_plain_value_is_answered_with_its_type_and_length(make: Make) -> None:
    answer = await (await make(lambda request: "hällo")).ask()
    assert (answer.status, answer.body) == (200, "hällo".encode())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-length"] == "6"


async def test_a_dictionary_is_answered_as_json(make: Make) -> None:
    answer = await (await make(lambda request: {"a": 1})).ask()
    assert (answer.headers["content-type"], answer.body) == ("application/json", b'{\n  "a": 1\n}')


async def test_a_handler_that_takes_no_argument_is_called_without(make: Make) -> None:
    def hello() -> str:
        return "hello world"

    assert (await (await make(hello)).ask()).body == b"hello world"


@pytest.mark.parametrize("is_failing", [False, True])
async def test_every_answer_names_the_backend_and_the_replica(make: Make, is_failing: bool) -> None:
    answer = await (await make(lambda request: 1 // int(not is_failing))).ask()
    assert answer.status == (500 if is_failing else 200)
    assert answer.headers["x-serve-backend"] == "model"
    assert answer.headers["x-serve-replica"] == "model#abcdef"


async def test_a_response_is_sent_as_it_is(make: Make) -> None:
    def teapot(request: Any) -> Response:
        return JSONResponse({"short": True}, 418, {"x-mine": "yes"})

    answer = await (await make(teapot)).ask()
    assert (answer.status, answer.body) == (418, b'{"short":true}')
    assert (answer.headers["x-mine"], answer.headers["x-serve-backend"]) == ("yes", "model")


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_streaming_response_leaves_chunk_by_chunk(make: Make, is_async: bool) -> None:
    async def chunks_async() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            yield chunk

    async def stream_async() -> Response:
        return StreamingResponse(chunks_async())

    def stream() -> Response:
        return StreamingResponse(iter([b"a", b"b", b"c"]))

    answer = await (await make(stream_async if is_async else stream)).ask()
    assert answer.chunks == [b"a", b"b", b"c", b""]


async def test_a_failing_handler_is_a_500_without_its_secrets_and_a_traceback_in_the_log(
    make: Make, logged: pytest.LogCaptureFixture
) -> None:
    def fail(request: Any) -> None:
        raise ValueError("secret detail")

    answer = await (await make(fail)).ask("/f")
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "Request GET /f failed" in logged.text
    assert "ValueError: secret detail" in logged.text


async def test_a_value_that_json_cannot_hold_is_a_500(make: Make) -> None:
    assert (await (await make(lambda request: {1, 2})).ask()).status == 500


async def test_a_stream_that_fails_midway_is_cut_and_not_answered_twice(make: Make) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("boom")

    async def stream() -> Response:
        return StreamingResponse(chunks())

    replica = await make(stream)
    with pytest.raises(Exception, match=r"boom|unhandled errors"):
        await replica.ask()
    assert replica.gate.inside == 0


async def test_the_replica_goes_on_after_a_failure(make: Make) -> None:
    replica = await make(lambda request: 1 // int(request.query_params["n"]))
    assert (await replica.ask(query_string=b"n=0")).status == 500
    assert (await replica.ask(query_string=b"n=1")).body == b"1"


async def test_path_parameters_are_read_from_the_route_with_their_types(make: Make) -> None:
    replica = await make(lambda request: [request.path_params["id"], request.path_params["name"]])
    headers = {"x-serve-route": "/users/{id:int}/{name}"}
    assert (await replica.ask("/users/7/ann", headers=headers)).body == b'[\n  7,\n  "ann"\n]'


async def test_a_plain_route_has_no_path_parameters(make: Make) -> None:
    replica = await make(lambda request: dict(request.path_params))
    assert (await replica.ask("/f", headers={"x-serve-route": "/f"})).body == b"{}"


async def test_a_mounted_application_sees_its_route_as_root_path(make: Make) -> None:
    app = FastAPI()

    @app.get("/items/{name}")
    def item(name: str, request: Request) -> list[str]:
        return [name, request.scope["root_path"]]

    headers = {"x-serve-route": "/shop/", "x-serve-mount": "1"}
    answer = await (await make(app)).ask("/shop/items/tea", headers=headers)
    assert (answer.status, answer.body) == (200, b'["tea","/shop"]')
    assert answer.headers["x-serve-replica"] == "model#abcdef"


async def test_the_applications_own_404_carries_the_tags_too(make: Make) -> None:
    answer = await (await make(Starlette())).ask("/nowhere")
    assert (answer.status, answer.headers["x-serve-backend"]) == (404, "model")


class TwoMethods:
    def __call__(self, request: Any) -> str:
        return "call"

    @serve.expose
    async def other(self, request: Any) -> str:
        return "other"

    def hidden(self, request: Any) -> str:
        return "hidden"


async def test_the_call_method_header_chooses_the_method(make: Make) -> None:
    replica = await make(TwoMethods)
    assert (await replica.ask()).body == b"call"
    assert (await replica.ask(headers={"x-serve-call-method": "other"})).body == b"other"


@pytest.mark.parametrize("name", ["missing", "__init__", "_hidden", "__class__", "hidden"])
async def test_a_method_that_is_not_offered_is_a_404_that_names_those_that_are(
    make: Make, logged: pytest.LogCaptureFixture, name: str
) -> None:
    answer = await (await make(TwoMethods)).ask(headers={"x-serve-call-method": name})
    assert answer.status == 404
    assert f"offers no method '{name}' to HTTP requests".encode() in answer.body
    assert b"it offers '__call__', 'other'." in answer.body
    assert logged.text == ""


async def test_the_request_carries_what_the_client_sent(make: Make) -> None:
    async def show(request: Any) -> list[Any]:
        return [request.method, request.query_params["q"], request.headers["x-mine"],
                await request.json()]  # fmt: skip

    answer = await (await make(show)).ask(
        method="POST", query_string=b"q=1", headers={"x-mine": "yes"}, body=b'{"a": 1}'
    )
    assert answer.body.split() == b'[ "POST", "1", "yes", { "a": 1 } ]'.split()


async def test_a_blocking_handler_reads_the_body_in_its_thread(make: Make) -> None:
    answer = await (await make(lambda request: request.data[::-1])).ask(body=b"abc")
    assert answer.body == b"cba"


@pytest.mark.usefixtures("watch_soon")
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_body_can_be_read_late(make: Make, is_async: bool) -> None:
    async def late(request: Any) -> bytes:
        await asyncio.sleep(0.02)
        body: bytes = await request.body()
        return body

    def late_blocking(request: Any) -> bytes:
        import time

        time.sleep(0.02)
        data: bytes = request.data
        return data

    replica = await make(late if is_async else late_blocking)
    assert (await asyncio.wait_for(replica.ask(body=b"abc"), 60)).body == b"abc"


async def test_the_client_is_the_one_that_haproxy_names_last(make: Make) -> None:
    replica = await make(lambda request: request.client.host)
    answer = await replica.ask(headers={"x-forwarded-for": "forged, 10.1.2.3"})
    assert answer.body == b"10.1.2.3"


async def test_the_handler_runs_in_its_requests_context_also_in_a_thread(make: Make) -> None:
    def show(request: Any) -> list[str]:
        context = request_context.get()
        assert context is not None
        return [context.request_id, context.endpoint, context.route]

    headers = {"x-request-id": "r-1", "x-serve-endpoint": "e", "x-serve-route": "/f"}
    answer = await (await make(show)).ask(headers=headers)
    assert answer.body.split() == b'[ "r-1", "e", "/f" ]'.split()


async def test_a_request_without_an_id_gets_one(make: Make) -> None:
    def show(request: Any) -> str:
        context = request_context.get()
        return context.request_id if context is not None else ""

    assert is_request_id((await (await make(show)).ask()).body.decode())


class AddHeader:
    """A middleware that notes its name on the way in."""

    def __init__(self, app: Any, name: str) -> None:
        self.app = app
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, "names": [*scope.get("names", []), self.name]}, receive, send)


@pytest.mark.parametrize("is_app", [False, True])
async def test_middlewares_run_around_every_kind_of_backend_outermost_first(
    make: Make, is_app: bool
) -> None:
    async def show(request: Any) -> Response:
        return PlainTextResponse(" ".join(request.scope["names"]))

    middlewares = [Middleware(AddHeader, name="outer"), Middleware(AddHeader, "inner")]
    target = Starlette(routes=[Route("/f", show)]) if is_app else show
    assert (await (await make(target, middlewares=middlewares)).ask()).body == b"outer inner"


async def test_a_middlewares_failure_is_a_500_too(make: Make) -> None:
    class Fail:
        def __init__(self, app: Any) -> None: ...

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            raise ValueError("boom")

    answer = await (await make(lambda request: 1, middlewares=[Middleware(Fail)])).ask()
    assert (answer.status, answer.headers["x-serve-replica"]) == (500, "model#abcdef")


@pytest.mark.usefixtures("watch_soon")
async def test_a_client_that_leaves_cancels_its_handler_and_frees_its_place(make: Make) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(request: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    replica = await make(work)
    asking = asyncio.ensure_future(replica.ask())
    await asyncio.wait_for(begun.wait(), 60)
    replica.disconnect.set()
    assert (await asyncio.wait_for(asking, 60)).messages == []
    assert cancelled.is_set()
    assert replica.gate.inside == 0


async def test_a_handler_that_is_cancelled_by_the_server_stays_cancelled(make: Make) -> None:
    begun = asyncio.Event()

    async def work(request: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    replica = await make(work)
    asking = asyncio.ensure_future(replica.ask())
    await asyncio.wait_for(begun.wait(), 60)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert replica.gate.inside == 0


@pytest.mark.usefixtures("watch_soon")
async def test_a_background_task_of_an_answer_runs_to_its_end(make: Make) -> None:
    ended = []

    async def clean_up() -> None:
        await asyncio.sleep(0.02)
        ended.append("clean")

    async def work(request: Any) -> Response:
        return PlainTextResponse("done", background=BackgroundTask(clean_up))

    assert (await (await make(work)).ask()).body == b"done"
    assert ended == ["clean"]


async def test_no_more_requests_run_at_once_than_the_limit(make: Make) -> None:
    running, most = 0, 0

    async def work(request: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    replica = await make(work, limit=2)
    answers = await asyncio.gather(*(replica.ask() for _ in range(6)))
    assert ([answer.status for answer in answers], most) == ([200] * 6, 2)


async def test_a_request_that_waits_too_long_for_its_turn_is_a_503_with_a_reason(
    make: Make,
) -> None:
    replica = await make(lambda request: 1, limit=1, queue_timeout_s=0.01)
    replica.gate.try_enter()
    answer = await replica.ask()
    assert answer.status == 503
    assert b"had no place free within 0.01 s: 1 of 1 (max_concurrent_queries)" in answer.body
    assert (answer.headers["retry-after"], answer.headers["x-serve-backend"]) == ("1", "model")


async def test_shadow_backends_get_a_copy_and_the_handler_still_has_its_body(make: Make) -> None:
    async def echo(request: Any) -> bytes:
        body: bytes = await request.body()
        return body

    replica = await make(echo)
    scope_headers = [(b"x-serve-endpoint", b"e"), (b"x-serve-shadow", b"s1")]
    scope_headers.append((b"x-serve-shadow", b"s2"))
    scope = {**scope_of("/f"), "headers": scope_headers}
    answer = Answer()
    parts = [{"type": "http.request", "body": b"abc", "more_body": False}]

    async def receive() -> Any:
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answer.messages.append(message)

    await replica.entry(scope, receive, send)
    ((endpoint, tags, copy),) = replica.shadows
    assert (endpoint, tags, await copy.body()) == ("e", ["s1", "s2"], b"abc")
    assert answer.body == b"abc"


async def drive_socket(replica: Replica) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**scope_of("/ws"), "type": "websocket", "subprotocols": [], "state": {}}
    await replica.entry(scope, receive, send)
    return sent


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hi")
    await socket.close()


async def test_a_websocket_reaches_the_application_and_its_acceptance_names_the_replica(
    make: Make,
) -> None:
    replica = await make(Starlette(routes=[WebSocketRoute("/ws", greet)]))
    accepted, message, closed = await drive_socket(replica)
    assert (b"x-serve-replica", b"model#abcdef") in accepted["headers"]
    assert (message["text"], closed["type"]) == ("hi", "websocket.close")


async def test_a_websocket_that_finds_no_place_is_told_to_try_again_later(make: Make) -> None:
    app = Starlette(routes=[WebSocketRoute("/ws", greet)])
    replica = await make(app, limit=1, queue_timeout_s=0.01)
    replica.gate.try_enter()
    start, body = await drive_socket(replica)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert {(b"retry-after", b"1"), (b"x-serve-replica", b"model#abcdef")} <= set(start["headers"])
    assert b"had no place free" in body["body"]


# Whatever the user's code raises, or leaves undone, is one answer, said once.


class Panic(BaseException):
    """As extensions written in Rust raise."""


@pytest.mark.parametrize(
    "kind", [Panic, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
@pytest.mark.parametrize("is_app", [False, True])
async def test_what_is_no_exception_is_a_500_too(
    make: Make, logged: pytest.LogCaptureFixture, kind: type[BaseException], is_app: bool
) -> None:
    async def handler(request: Any) -> None:
        raise kind("no")

    target: Any = Starlette(routes=[Route("/f", handler)]) if is_app else handler
    replica = await make(target)
    answer = await replica.ask()
    assert (answer.status, answer.headers["x-serve-replica"]) == (500, "model#abcdef")
    assert "Request GET /f failed" in logged.text
    assert kind.__name__ in logged.text
    assert replica.gate.inside == 0
    assert (await replica.ask()).status == 500  # the loop goes on


async def test_a_request_whose_task_is_cancelled_is_no_failure_of_its_handler(
    make: Make, logged: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def wait(request: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    replica = await make(wait)
    asking = asyncio.create_task(replica.ask())
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert logged.text == ""


async def test_an_application_that_returns_without_an_answer_is_a_500(
    make: Make, logged: pytest.LogCaptureFixture
) -> None:
    class Silent:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            pass

    answer = await (await make(Silent())).ask()
    assert answer.status == 500
    assert "returned without a whole answer" in logged.text


async def test_a_stream_that_breaks_is_cut_and_says_after_how_much(
    make: Make, logged: pytest.LogCaptureFixture
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"12345"
        raise ValueError("broken")

    replica = await make(lambda request: StreamingResponse(pieces()))
    with pytest.raises(ValueError, match="broken"):
        await replica.ask()
    assert "Request GET /f failed after 5 bytes of its answer" in logged.text


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_a_websocket_handler_that_raises_is_said(
    make: Make, logged: pytest.LogCaptureFixture, is_accepted: bool
) -> None:
    async def fail(socket: WebSocket) -> None:
        if is_accepted:
            await socket.accept()
        raise ValueError("broken")

    first, last = await drive_socket(await make(Starlette(routes=[WebSocketRoute("/ws", fail)])))
    if is_accepted:
        assert (last["type"], last["code"]) == ("websocket.close", 1011)
    else:
        assert first["status"] == 500
    assert "Request WebSocket /ws failed" in logged.text


async def test_a_websocket_that_the_application_leaves_open_is_closed(make: Make) -> None:
    async def leave_open(socket: WebSocket) -> None:
        await socket.accept()

    app = Starlette(routes=[WebSocketRoute("/ws", leave_open)])
    _, last = await drive_socket(await make(app))
    assert (last["type"], last["code"]) == ("websocket.close", 1000)


async def test_a_websocket_that_the_application_never_answers_is_a_500(make: Make) -> None:
    class Silent:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            pass

    start, _ = await drive_socket(await make(Silent()))
    assert start["status"] == 500


async def test_a_client_that_leaves_a_websocket_is_no_failure(
    make: Make, logged: pytest.LogCaptureFixture
) -> None:
    async def leave(socket: WebSocket) -> None:
        await socket.accept()
        raise WebSocketDisconnect(1001)

    accepted, *_ = await drive_socket(await make(Starlette(routes=[WebSocketRoute("/ws", leave)])))
    assert accepted["type"] == "websocket.accept"
    assert logged.text == ""
