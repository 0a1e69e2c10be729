"""A replica's HTTP server over a real socket: what it writes for what an application sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from serve.ingress_token import TOKEN_HEADER
from serve.replica.server import HTTPServer

TOKEN = "a-token"
Ask = Callable[..., Awaitable[bytes]]
Sent = dict[str, Any]


def head(*headers: tuple[bytes, bytes], status: int = 200) -> Sent:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Sent:
    return {"type": "http.response.body", "body": data, "more_body": more}


def request(method: str = "GET", version: str = "1.1", *headers: str, body: str = "") -> bytes:
    lines = [f"{method} /a%20b?c=d HTTP/{version}", f"{TOKEN_HEADER}: {TOKEN}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class App:
    """An ASGI application that sends what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[list[Sent]] = []
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.raised: list[Exception] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        answer = self.answers.pop(0)
        is_more, data = True, b""
        while is_more:
            message = await receive()
            is_more = message.get("more_body", False)
            data += message.get("body", b"")
        self.bodies.append(data)
        for message in answer:
            try:
                await send(message)
            except Exception as error:
                self.raised.append(error)
                raise


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def ask(app: App) -> AsyncIterator[Ask]:
    """Writes bytes to the server; all that it answers until it closes, or says it is `done`."""
    server = HTTPServer(app, TOKEN)  # type: ignore[arg-type]
    port = await server.listen("127.0.0.1")

    async def write(data: bytes, until: bytes = b"") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        read = reader.readuntil(until) if until else reader.read()
        answer = await asyncio.wait_for(read, 60)
        writer.close()
        return answer

    yield write
    await server.stop(5)


async def test_a_body_of_known_length_follows_its_head(app: App, ask: Ask) -> None:
    app.answers = [[head((b"Content-Length", b"2"), (b"X-A", b"b")), body(b"hi")]]
    answer = await ask(request(), until=b"hi")
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nhi"
    scope = app.scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert (scope["method"], scope["http_version"], scope["headers"]) == ("GET", "1.1", [])


@pytest.mark.parametrize(
    "headers", [(), ((b"transfer-encoding", b"chunked"),)], ids=["unsaid", "said"]
)
async def test_a_body_without_a_length_goes_in_chunks(app: App, ask: Ask, headers: Any) -> None:
    app.answers = [[head(*headers), body(b"one", more=True), body(b"", more=True), body(b"three")]]
    answer = await ask(request(), until=b"0\r\n\r\n")
    lines = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert answer == lines + b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "status", "line"),
    [("HEAD", 200, b"200 OK"), ("GET", 204, b"204 No Content"), ("GET", 304, b"304 Not Modified")],
)
async def test_an_answer_that_has_no_body_is_its_head(
    app: App, ask: Ask, method: str, status: int, line: bytes
) -> None:
    sent = [head(status=status), body(b"left out" if method == "HEAD" else b"")]
    app.answers = [sent, [head((b"content-length", b"0"), (b"connection", b"close")), body(b"")]]
    answer = await ask(request(method) + request())
    assert answer == (
        b"HTTP/1.1 " + line + b"\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("status", [299, 599])
async def test_a_status_without_a_name_is_sent_too(app: App, ask: Ask, status: int) -> None:
    app.answers = [[head((b"content-length", b"0"), status=status), body(b"")]]
    assert (await ask(request(), until=b"\r\n\r\n")).startswith(b"HTTP/1.1 %d \r\n" % status)


@pytest.mark.parametrize(
    "ended", [("1.0", ""), ("1.1", "connection: close"), ("1.1", "connection: upgrade, close")]
)
async def test_a_connection_ends_when_the_client_says_so(
    app: App, ask: Ask, ended: tuple[str, str]
) -> None:
    version, header = ended
    app.answers = [[head((b"content-length", b"2")), body(b"hi")]]
    answer = await ask(request("GET", version, *([header] if header else [])))
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"


@pytest.mark.parametrize("value", [b"close", b"Keep-Alive, Close"])
async def test_a_connection_ends_when_the_application_says_so(
    app: App, ask: Ask, value: bytes
) -> None:
    app.answers = [[head((b"content-length", b"2"), (b"Connection", value)), body(b"hi")]]
    assert (await ask(request())).endswith(b"connection: " + value + b"\r\n\r\nhi")


async def test_what_is_asked_for_at_once_is_answered_in_order(app: App, ask: Ask) -> None:
    answers = [b"one", b"two", b"end"]
    app.answers = [[head((b"content-length", b"3")), body(data)] for data in answers]
    asked = [request("POST", "1.1", "content-length: 2", body=each) for each in ("ab", "cd", "ef")]
    answer = await ask(b"".join(asked), until=b"end")
    assert [part[-3:] for part in answer.split(b"HTTP/1.1 ")[1:]] == answers
    assert app.bodies == [b"ab", b"cd", b"ef"]


async def test_continue_is_said_before_the_body_is_read(app: App, ask: Ask) -> None:
    app.answers = [[head((b"content-length", b"2")), body(b"hi")]]
    asked = request("POST", "1.1", "expect: 100-continue", "content-length: 2", body="ab")
    answer = await ask(asked, until=b"hi")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_a_bad_head_is_refused_before_anything_was_sent(app: App, ask: Ask) -> None:
    app.answers = [[head((b"x-a", b"b\r\nc: d")), body(b"")]]
    answer = await ask(request())
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"c: d" not in answer
    assert "'x-a'" in str(app.raised[0])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([head((b"content-length", b"3")), body(b"toolong")], "longer"),
        ([head((b"content-length", b"3")), body(b"to")], "shorter"),
        ([body(b"first")], "has not begun"),
        ([head(), head()], "has begun"),
        ([head((b"content-length", b"0")), body(b""), body(b"more")], "is whole"),
    ],
)
async def test_a_message_that_does_not_fit_is_told_to_the_application(
    app: App, ask: Ask, sent: list[Sent], said: str
) -> None:
    app.answers = [sent]
    await ask(request("GET", "1.1", "connection: close"))
    (error,) = app.raised
    assert isinstance(error, RuntimeError)
    assert said in str(error)
