"""Piece by piece: streamed answers and uploads, and WebSockets, through the real HAProxy."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import serve
from tests.integration.conftest import Deploy, Instance

pytestmark = pytest.mark.slow


class Streamer:
    """Streams a first piece, and the rest only after it is told to; each test has a key."""

    def __init__(self) -> None:
        self.go: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.got: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.closed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def __call__(self, request: Any) -> StreamingResponse:
        key = request.query_params["key"]

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await self.go[key].wait()
                yield b"last"
            finally:
                self.closed[key].set()

        return StreamingResponse(pieces(), media_type="text/plain")

    @serve.expose
    async def upload(self, request: Any) -> str:
        pieces = []
        async for piece in request.stream():
            if piece:
                pieces.append(piece)
                self.got[request.query_params["key"]].set()
        return b"|".join(pieces).decode()

    async def release(self, request: Any) -> None:
        self.go[request.data].set()

    async def wait_got(self, request: Any) -> None:
        await self.got[request.data].wait()

    async def wait_closed(self, request: Any) -> None:
        await self.closed[request.data].wait()


@pytest.fixture(scope="module")
def streamer(keep: Deploy) -> str:
    """A backend of Streamer, at `/streamer`."""
    return keep(Streamer, route="/streamer")


def tell(name: str, method: str, key: str = "") -> None:
    """Call a method of the backend behind an endpoint."""
    serve.get_handle(name).options(method_name=method).call(key).result(60)


def test_the_first_piece_arrives_before_the_last_one_is_made(
    instance: Instance, streamer: str
) -> None:
    with instance.http.stream("GET", "/streamer?key=piece") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        assert answer.headers["x-serve-backend"] == streamer
        tell(streamer, "release", "piece")
        assert b"".join(pieces) == b"last"


def test_a_blocking_generator_is_streamed_too(instance: Instance, bring_up: Deploy) -> None:
    class Blocking:
        def __init__(self) -> None:
            self.go = threading.Event()

        def __call__(self, request: Any) -> StreamingResponse:
            def pieces() -> Iterator[str]:
                yield "first"
                yield "last" if self.go.wait(20) else "stuck"

            return StreamingResponse(pieces(), media_type="text/plain")

        def release(self, request: Any) -> None:
            self.go.set()

    name = bring_up(Blocking)
    with instance.http.stream("GET", f"/{name}") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        tell(name, "release")
        assert b"".join(pieces) == b"last"


def test_an_upload_is_read_while_it_is_sent(instance: Instance, streamer: str) -> None:
    serve.create_endpoint("upload", backend=streamer, route="/upload", methods=["POST"])

    def pieces() -> Iterator[bytes]:
        yield b"first"
        tell(streamer, "wait_got", "up")
        yield b"last"

    answer = instance.http.post(
        "/upload?key=up", content=pieces(), headers={"X-Serve-Call-Method": "upload"}
    )
    assert answer.text == "first|last"


def test_a_stream_ends_when_its_client_leaves(instance: Instance, streamer: str) -> None:
    with httpx.stream("GET", instance.url("/streamer?key=leaves")) as answer:
        assert next(answer.iter_raw()) == b"first"
    tell(streamer, "wait_closed", "leaves")


def test_a_stream_survives_a_reload(instance: Instance, streamer: str) -> None:
    with instance.http.stream("GET", "/streamer?key=reload") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first"
        serve.create_endpoint("other", backend=streamer, route="/other")
        tell(streamer, "release", "reload")
        assert b"".join(pieces) == b"last"


def test_a_stream_that_fails_midway_is_cut_and_not_ended_well(
    instance: Instance, bring_up: Deploy
) -> None:
    async def broken() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            raise ArithmeticError("midway")

        return StreamingResponse(pieces())

    name = bring_up(broken)
    with pytest.raises(httpx.RemoteProtocolError):
        instance.http.get(f"/{name}")
    with pytest.raises(httpx.RemoteProtocolError):  # the replica goes on, and fails the same way
        instance.http.get(f"/{name}")


# WebSockets.


def make_app() -> Starlette:
    """An application of WebSockets; made in a function so that it travels by value."""

    async def echo(socket: WebSocket) -> None:
        await socket.accept(subprotocol="chat" if "chat" in socket.scope["subprotocols"] else None)
        await socket.send_json(
            {"path": socket.url.path, "q": socket.query_params.get("q"), **socket.path_params}
        )
        try:
            while True:
                message = await socket.receive()
                if message.get("text") == "bye":
                    await socket.close(4001, "as you wish")
                    return
                if message["type"] == "websocket.disconnect":
                    break
                await socket.send({**message, "type": "websocket.send"})
        except WebSocketDisconnect:
            pass
        left[socket.path_params["name"]].set()

    async def wait_left(socket: WebSocket) -> None:
        await socket.accept()
        await asyncio.wait_for(left[socket.path_params["name"]].wait(), 60)
        await socket.send_text("left")
        await socket.close()

    async def refuse(socket: WebSocket) -> None:
        await socket.close()

    left: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
    return Starlette(
        routes=[
            WebSocketRoute("/echo/{name}", echo),
            WebSocketRoute("/left/{name}", wait_left),
            WebSocketRoute("/refused", refuse),
        ]
    )


@pytest.fixture(scope="module")
def chat(keep: Deploy) -> str:
    """A backend whose application answers WebSockets, at `/chat`."""
    return keep(make_app(), route="/chat")


@pytest.fixture
def base(instance: Instance, chat: str) -> str:
    """Where the application's WebSockets are."""
    return f"ws://127.0.0.1:{instance.port}/chat"


def test_a_websocket_carries_text_bytes_and_large_messages_both_ways(base: str) -> None:
    with connect(f"{base}/echo/joe?q=1", max_size=None) as socket:
        assert '"q":"1"' in str(socket.recv())
        for message in ("text", b"\x00bytes", "x" * 3_000_000):
            socket.send(message)
            assert socket.recv() == message


def test_the_handshake_names_request_backend_and_replica(base: str, chat: str) -> None:
    with connect(
        f"{base}/echo/joe",
        additional_headers={"X-Request-ID": "ws-1"},
        subprotocols=["chat"],  # type: ignore[list-item]
    ) as socket:
        headers = socket.response.headers
        assert headers["x-request-id"] == "ws-1"
        assert headers["x-serve-backend"] == chat
        assert headers["x-serve-replica"].startswith(f"{chat}#")
        assert socket.subprotocol == "chat"


def test_a_websocket_survives_reloads(base: str, chat: str) -> None:
    with connect(f"{base}/echo/joe") as socket:
        socket.recv()
        for number in range(3):
            serve.create_endpoint(f"other-{number}", backend=chat, route=f"/other/{number}")
            socket.send(f"still {number}")
            assert socket.recv() == f"still {number}"


def test_a_websocket_closed_by_the_application_tells_code_and_reason(base: str) -> None:
    with connect(f"{base}/echo/joe") as socket:
        socket.recv()
        socket.send("bye")
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish")


def test_the_application_hears_of_a_client_that_leaves(base: str) -> None:
    with connect(f"{base}/echo/leaver") as socket:
        socket.recv()
    with connect(f"{base}/left/leaver") as socket:
        assert socket.recv(timeout=60) == "left"


@pytest.mark.parametrize(("path", "status"), [("/refused", 403), ("/nowhere", 403)])
def test_a_refused_handshake_is_an_http_status(base: str, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(base + path)
    assert caught.value.response.status_code == status


def test_a_websocket_to_an_unknown_endpoint_is_404(shared_instance: Instance) -> None:
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{shared_instance.port}/nowhere")
    assert caught.value.response.status_code == 404


def test_a_websocket_to_a_plain_backend_is_refused_and_the_replica_goes_on(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(lambda: "plain")
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{instance.port}/{name}")
    assert caught.value.response.status_code in (400, 403, 426, 500)
    assert instance.http.get(f"/{name}").text == "plain"
