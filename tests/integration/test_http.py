"""What a client sees over HTTP: answers, bodies of any size, failures, disconnects, middlewares."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, JSONResponse

import serve
from tests.conftest import free_port
from tests.integration.conftest import Deploy, Instance
from tests.integration.samples import QUICK, drain, find_haproxies, read_rss_mb

pytestmark = pytest.mark.slow

MB = 1_000_000


class Point(BaseModel):
    x: int = 1


class Answers:
    """Returns a value of the kind that is asked for."""

    def __call__(self, request: Any) -> Any:
        import numpy as np

        values: dict[str, Any] = {
            "none": None,
            "bytes": b"\x00\xff",
            "str": "größe",
            "dict": {"a": [1, 2.5, None, True]},
            "list": ["a"],
            "int": 5,
            "array": np.arange(3),
            "nested": {"array": np.eye(2), "error": ValueError("no"), "bytes": b"b"},
            "model": Point(),
            "html": HTMLResponse("<p>hi</p>", status_code=201, headers={"x-mine": "1"}),
            "set": {1, 2},
        }
        return values[request.query_params["kind"]]

    @serve.expose
    def shout(self, request: Any) -> str:
        return str(request.query_params["word"]).upper()

    @serve.expose
    def silent(self) -> str:
        return "no parameter"

    def _secret(self, request: Any) -> str:
        return "secret"


class Bodies:
    """Reads bodies in every way."""

    async def __call__(self, request: Any) -> dict[str, Any]:
        count = 0
        async for chunk in request.stream():
            count += len(chunk)
        return {"count": count, "rss": read_rss_mb(os.getpid()), "pid": os.getpid()}

    @serve.expose
    async def whole(self, request: Any) -> int:
        return len(await request.body())

    @serve.expose
    async def parsed(self, request: Any) -> Any:
        return await request.json()

    @serve.expose
    async def async_data(self, request: Any) -> str:
        try:
            return str(request.data)
        except serve.RayServeException as error:
            return f"refused: {error}"

    @serve.expose
    def blocking_data(self, request: Any) -> int:
        return len(request.data) + len(request.data)

    @serve.expose
    async def unread(self, request: Any) -> str:
        return "not read"

    @serve.expose
    async def large(self, request: Any) -> bytes:
        return bytes(int(request.query_params["n"]))

    @serve.expose
    async def facts(self, request: Any) -> dict[str, Any]:
        return {
            "method": request.method,
            "client": request.client.host,
            "header": request.headers.get("x-mine"),
            "list": request.query_params.getlist("a"),
            "cookies": request.cookies,
            "host": request.headers["host"],
        }


class Patient:
    """Waits until it is cancelled, and tells of it."""

    def __init__(self) -> None:
        self.begun, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Any) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    @serve.expose
    async def reading(self, request: Any) -> None:
        self.begun.set()
        try:
            await request.body()
            await asyncio.sleep(60)
        except BaseException:
            self.cancelled.set()
            raise

    async def begin(self) -> None:
        self.begun.set()

    async def wait_begun(self) -> None:
        await self.begun.wait()

    async def wait_cancelled(self) -> None:
        await self.cancelled.wait()

    @serve.expose
    async def with_task(self, request: Any) -> JSONResponse:
        from starlette.background import BackgroundTask

        async def work() -> None:
            await self.begun.wait()
            self.cancelled.set()

        return JSONResponse("answered", background=BackgroundTask(work))


@pytest.fixture(scope="module")
def instance_with_backends(shared_instance: Instance) -> Iterator[Instance]:
    """The module's instance with `/answers` and `/bodies`."""
    for name, target in {"answers": Answers, "bodies": Bodies}.items():
        serve.create_backend(name, target, config=QUICK)
        serve.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST", "PUT"])
    yield shared_instance


@pytest.fixture
def http(instance_with_backends: Instance) -> httpx.Client:
    """A client of that instance."""
    return instance_with_backends.http


def method(name: str) -> dict[str, str]:
    """Headers that ask for a method."""
    return {"X-Serve-Call-Method": name}


# Answers.


@pytest.mark.parametrize(
    ("kind", "body", "content_type"),
    [
        ("none", b"", "text/plain"),
        ("bytes", b"\x00\xff", "text/plain"),
        ("str", "größe".encode(), "text/plain; charset=utf-8"),
        (
            "dict",
            b'{\n  "a": [\n    1,\n    2.5,\n    null,\n    true\n  ]\n}',
            "application/json",
        ),
        ("list", b'[\n  "a"\n]', "application/json"),
        ("int", b"5", "application/json"),
        ("array", b"[\n  0,\n  1,\n  2\n]", "application/json"),
        ("model", b'{\n  "x": 1\n}', "application/json"),
    ],
)
def test_a_returned_value_becomes_a_body(
    http: httpx.Client, kind: str, body: bytes, content_type: str
) -> None:
    answer = http.get(f"/answers?kind={kind}")
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == content_type
    assert answer.headers["content-length"] == str(len(body))


def test_arrays_errors_and_bytes_may_be_inside_json(http: httpx.Client) -> None:
    answer = http.get("/answers?kind=nested").json()
    assert answer == {"array": [[1.0, 0.0], [0.0, 1.0]], "error": "no", "bytes": "b"}


def test_a_starlette_response_is_sent_as_it_is(http: httpx.Client) -> None:
    answer = http.get("/answers?kind=html")
    assert (answer.status_code, answer.text) == (201, "<p>hi</p>")
    assert answer.headers["x-mine"] == "1"
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("kind", ["set", "unknown"])
def test_what_fails_in_the_handler_or_in_json_is_500_and_the_replica_goes_on(
    http: httpx.Client, kind: str
) -> None:
    answer = http.get(f"/answers?kind={kind}")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert http.get("/answers?kind=int").text == "5"


def test_a_header_chooses_the_method(http: httpx.Client) -> None:
    assert http.get("/answers?word=loud", headers=method("shout")).text == "LOUD"
    assert http.get("/answers", headers=method("silent")).text == "no parameter"


@pytest.mark.parametrize("name", ["missing", "_secret", "__init__", "__class__"])
def test_a_missing_or_hidden_method_is_404(http: httpx.Client, name: str) -> None:
    answer = http.get("/answers?kind=int", headers=method(name))
    assert answer.status_code == 404
    assert f"offers no method '{name}' to HTTP requests" in answer.text


# Requests.


def test_a_handler_sees_the_request_as_the_client_sent_it(http: httpx.Client) -> None:
    answer = http.put(
        "/bodies?a=1&a=2", headers=method("facts") | {"x-mine": "yes", "cookie": "c=d"}
    ).json()
    assert answer == {
        "method": "PUT",
        "client": "127.0.0.1",
        "header": "yes",
        "list": ["1", "2"],
        "cookies": {"c": "d"},
        "host": f"127.0.0.1:{http.base_url.port}",
    }


def test_a_client_cannot_lie_about_its_address(http: httpx.Client) -> None:
    asked = method("facts") | {"x-forwarded-for": "8.8.8.8"}
    assert http.get("/bodies", headers=asked).json()["client"] == "127.0.0.1"


def test_the_clients_address_is_kept_when_a_reload_comes_between(http: httpx.Client) -> None:
    with httpx.Client(base_url=http.base_url) as client:
        client.get("/-/healthz")
        serve.create_endpoint("between", backend="answers", route="/between")
        facts = client.get("/bodies", headers=method("facts")).json()
        serve.delete_endpoint("between")
    assert facts["client"] == "127.0.0.1"


def test_a_body_is_read_whole_as_json_or_as_data(http: httpx.Client) -> None:
    assert http.post("/bodies", content=b"x" * 300_000, headers=method("whole")).text == "300000"
    assert http.post("/bodies", json={"a": 1}, headers=method("parsed")).json() == {"a": 1}
    assert http.post("/bodies", content=b"x" * 9, headers=method("blocking_data")).text == "18"


def test_a_large_body_is_data_in_a_blocking_handler(http: httpx.Client) -> None:
    body = bytes(5 * MB)
    assert http.post("/bodies", content=body, headers=method("blocking_data")).text == str(10 * MB)


def test_data_in_an_async_handler_says_what_to_use_instead(http: httpx.Client) -> None:
    answer = http.post("/bodies", content=b"x", headers=method("async_data")).text
    assert answer.startswith("refused:") and "await request.body()" in answer


def test_a_body_without_a_length_arrives_whole(http: httpx.Client) -> None:
    answer = http.post("/bodies", content=(b"x" * 1000 for _ in range(100)))
    assert answer.json()["count"] == 100_000


def test_a_large_body_that_nobody_reads_does_no_harm(http: httpx.Client) -> None:
    chunk = bytes(MB)
    for _ in range(2):
        answer = http.post("/bodies", content=(chunk for _ in range(20)), headers=method("unread"))
        assert answer.text == "not read"


def test_an_upload_of_a_gigabyte_is_held_by_nobody(instance_with_backends: Instance) -> None:
    http = instance_with_backends.http
    haproxies = find_haproxies(instance_with_backends.port)
    assert haproxies
    before = http.post("/bodies").json()
    most = {"replica": before["rss"], "haproxy": 0.0}
    start_haproxy = max(read_rss_mb(pid) for pid in haproxies)
    chunk = bytes(MB)

    def send() -> Iterator[bytes]:
        for number in range(1000):
            if number % 100 == 50:
                most["replica"] = max(most["replica"], read_rss_mb(before["pid"]))
                most["haproxy"] = max(most["haproxy"], *(read_rss_mb(pid) for pid in haproxies))
            yield chunk

    answer = http.post("/bodies", content=send(), timeout=120).json()
    assert answer["count"] == 1000 * MB
    assert most["replica"] - before["rss"] < 100
    assert most["haproxy"] - start_haproxy < 50


def test_a_download_of_hundreds_of_megabytes_arrives_whole(http: httpx.Client) -> None:
    with http.stream("GET", f"/bodies?n={200 * MB}", headers=method("large")) as answer:
        assert answer.headers["content-length"] == str(200 * MB)
        assert drain(answer.iter_raw()) == 200 * MB


# Clients that leave, and work that goes on.


@pytest.mark.parametrize("name", ["__call__", "reading"])
def test_a_client_that_leaves_cancels_its_handler(
    instance: Instance, bring_up: Deploy, name: str
) -> None:
    endpoint = bring_up(Patient, methods=["POST"])
    handle = serve.get_handle(endpoint)

    with socket.create_connection(("127.0.0.1", instance.port)) as connection:
        head = f"POST /{endpoint} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n"
        connection.sendall(f"{head}x-serve-call-method: {name}\r\n\r\nx".encode())
        handle.options(method_name="wait_begun").call().result(60)
    handle.options(method_name="wait_cancelled").call().result(60)


def test_a_client_that_stops_in_the_middle_of_its_body_cancels_its_handler(
    instance: Instance, bring_up: Deploy
) -> None:
    endpoint = bring_up(Patient, methods=["POST"])
    handle = serve.get_handle(endpoint)
    with socket.create_connection(("127.0.0.1", instance.port)) as connection:
        head = f"POST /{endpoint} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n"
        connection.sendall(f"{head}x-serve-call-method: reading\r\n\r\n".encode() + b"x" * 5000)
        handle.options(method_name="wait_begun").call().result(60)
    handle.options(method_name="wait_cancelled").call().result(60)


def test_a_background_task_finishes_after_the_answer(instance: Instance, bring_up: Deploy) -> None:
    endpoint = bring_up(Patient)
    assert instance.http.get(f"/{endpoint}", headers=method("with_task")).json() == "answered"
    handle = serve.get_handle(endpoint)
    handle.options(method_name="begin").call().result(60)
    handle.options(method_name="wait_cancelled").call().result(60)


# Middlewares.


class Stamp:
    """Puts a header on each answer."""

    def __init__(self, app: Any, word: str) -> None:
        self.app, self.word = app, word

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamp(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", self.word.encode())]
            await send(message)

        await self.app(scope, receive, stamp)


def test_middlewares_run_around_every_backend_outermost_first(ray_cluster: None) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    options = {
        "port": free_port(),
        "middlewares": [
            Middleware(CORSMiddleware, allow_origins=["http://good.example"]),
            Middleware(Stamp, "outer"),
            Middleware(Stamp, word="inner"),
        ],
    }
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("app"))])
    client = serve.start(http_options=options)
    try:
        client.create_backend("f", lambda: "f", config=QUICK)
        client.create_backend("app", app, config=QUICK)
        client.create_endpoint("f", backend="f", route="/f")
        client.create_endpoint("app", backend="app", route="/app")
        with httpx.Client(base_url=f"http://127.0.0.1:{options['port']}") as http:
            for path, text in {"/f": "f", "/app/": "app"}.items():
                answer = http.get(path, headers={"origin": "http://good.example"})
                assert answer.text == text
                assert answer.headers.get_list("x-stamp") == ["inner", "outer"]
                assert answer.headers["access-control-allow-origin"] == "http://good.example"
                assert "x-serve-replica" in answer.headers
    finally:
        client.shutdown()
        serve.connect()  # the module's own instance again
