"""Whatever a handler raises, its caller gets one error, and the request one record that says it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import ray
from fastapi import FastAPI, HTTPException
from fastapi import WebSocket as Socket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import serve
from tests.integration.conftest import Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.samples import QUICK
from tests.integration.test_ingress_records import record_of

pytestmark = pytest.mark.slow

KINDS = ["Panic", "SystemExit", "KeyboardInterrupt", "CancelledError", "ValueError"]
HERE = "(test_failures_told.py:"

_ids = itertools.count(1)


def make_error(kind: str) -> BaseException:
    class Panic(BaseException):  # as extensions in Rust raise it
        pass

    kinds = (Panic, SystemExit, KeyboardInterrupt, asyncio.CancelledError, ValueError)
    return next(made for made in kinds if made.__name__ == kind)("no luck")


class Raiser:
    """Raises what it is told to, each way there is."""

    async def __call__(self, request: Any) -> str:
        if "kind" in request.query_params:
            raise make_error(request.query_params["kind"])
        return "fine"

    @serve.expose
    def blocking(self, request: Any) -> str:
        raise make_error(request.query_params["kind"])

    @serve.expose
    @serve.accept_batch
    def whole_batch(self, requests: list[Any]) -> list[str]:
        raise make_error(requests[0].query_params["kind"])

    @serve.batch
    async def _gather(self, kinds: list[str]) -> list[str]:
        raise make_error(kinds[0])

    @serve.expose
    async def in_batch(self, request: Any) -> Any:
        return await self._gather(request.query_params["kind"])

    @serve.expose
    async def in_task(self, request: Any) -> None:
        async def work() -> None:
            raise make_error(request.query_params["kind"])

        await asyncio.create_task(work())

    @serve.expose
    async def streaming(self, request: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0)
            raise make_error(request.query_params["kind"])

        return StreamingResponse(pieces())

    @serve.expose
    def blocking_stream(self, request: Any) -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"first"
            raise make_error(request.query_params["kind"])

        return StreamingResponse(pieces())

    @serve.expose
    async def hundred(self, request: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1000
                await asyncio.sleep(0.05)

        return StreamingResponse(pieces())

    @serve.expose
    async def endless(self, request: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 60_000

        return StreamingResponse(pieces())

    @serve.expose
    async def endless_app(self, request: Any) -> Response:
        class Endless(Response):  # as an ASGI application that never listens
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                while True:
                    body = b"x" * 60_000
                    await send({"type": "http.response.body", "body": body, "more_body": True})

        return Endless()

    @serve.expose
    async def short(self, request: Any) -> Response:
        return PlainTextResponse("12345", headers={"content-length": "10"})


class Caller:
    """Calls the endpoint it is told to; says what came of it."""

    async def __call__(self, request: Any) -> str:
        name = request.query_params["endpoint"]
        handle = serve.get_handle(name, missing_ok=True, sync=False)
        try:
            return str(await handle.call(None))
        except Exception as error:  # noqa: BLE001 - whoever asked wants to know
            return type(error).__name__


async def die(request: Any) -> None:
    os._exit(3)


def make_app() -> FastAPI:
    """An application whose routes raise; made in a function so that it travels by value."""
    app = FastAPI()
    app.mount("/inner", make_inner())
    add_socket(app)

    @app.get("/raise/{kind}")
    async def fail(kind: str) -> None:
        raise make_error(kind)

    @app.get("/blocking/{kind}")
    def fail_blocking(kind: str) -> None:
        raise make_error(kind)

    @app.get("/http/{status}")
    async def refuse(status: int) -> None:
        raise HTTPException(status, "told")

    @app.get("/handled")
    async def look_up() -> None:
        raise LookupError("handled")

    @app.exception_handler(LookupError)
    async def handle(request: Request, error: Exception) -> Response:
        return PlainTextResponse("handled", 503)

    async def fail_plainly(request: Request) -> None:
        raise make_error("ValueError")

    async def answer_and_close(request: Request, error: Exception) -> Response:
        return PlainTextResponse("told", 500, headers={"Connection": "close"})

    handlers = {Exception: answer_and_close}
    closing = Starlette(routes=[Route("/", fail_plainly)], exception_handlers=handlers)
    app.mount("/closing", closing)
    app.mount("/plain", Starlette(routes=[Mount("/at", routes=[Route("/all", fail_plainly)])]))
    return app


def make_inner() -> FastAPI:
    """One with a middleware that runs the route in a task."""
    app = FastAPI()

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    @app.get("/raise/{kind}")
    async def fail(kind: str) -> None:
        raise make_error(kind)

    return app


def add_socket(app: FastAPI) -> None:
    @app.websocket("/ws/{how}")
    async def talk(socket: Socket, how: str) -> None:
        await socket.accept()
        if how == "return":
            return
        if how == "close":
            await socket.close(4001)
            return
        while how == "echo":
            await socket.send_text(await socket.receive_text())
        raise make_error(how)


@pytest.fixture(scope="module")
def raiser(shared_instance: Instance) -> str:
    return serve_as("raiser", Raiser)


@pytest.fixture(scope="module")
def app(shared_instance: Instance) -> str:
    return serve_as("raising-app", make_app())


@pytest.fixture(scope="module")
def caller(shared_instance: Instance) -> str:
    serve_as("mortal", die)
    return serve_as("caller", Caller)


def serve_as(name: str, target: Any) -> str:
    serve.create_backend(name, target, config=QUICK)
    serve.create_endpoint(name, backend=name, route=f"/{name}")
    return name


def ask(instance: Instance, path: str, method: str = "") -> tuple[httpx.Response, Record]:
    """The answer to a request and its only record."""
    request_id = f"told-{next(_ids)}"
    headers = {"X-Request-ID": request_id} | ({"X-Serve-Call-Method": method} if method else {})
    answer = instance.http.get(path, headers=headers)
    return answer, record_of(request_id)


@pytest.mark.parametrize(
    ("called", "seen", "status", "error"),
    [
        ("mortal", "ReplicaDiedError", 502, "replica_died"),
        ("nowhere", "RayServeException", 404, "not_found"),
    ],
)
def test_of_a_call_that_no_replica_can_tell_of_the_calling_replica_does(
    shared_instance: Instance, caller: str, called: str, seen: str, status: int, error: str
) -> None:
    headers = {"X-Request-ID": f"in-vain-{called}"}
    answer = shared_instance.http.get(f"/{caller}?endpoint={called}", headers=headers)
    assert (answer.status_code, answer.text) == (200, seen)

    records = wait_until(
        lambda: (
            # That of a lost call is there once its replica could not be reached again.
            len(found := read_records(lambda r: r.get("request_id") == f"in-vain-{called}")) >= 2
            and found
        )
    )
    by_way = {record["way"]: record for record in records if record["kind"] == "access"}
    assert len(records) == len(by_way) == 2
    call = by_way["call"]
    assert (call["status"], call["error"], call["endpoint"]) == (status, error, called)
    assert call["parent_id"] == by_way["http"]["span_id"]
    assert str(call.get("replica")).startswith("mortal#") == (called == "mortal")
    assert call.get("backend", "") == ("mortal" if called == "mortal" else "")


WAYS = ["", "blocking", "whole_batch", "in_batch", "in_task"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_over_http_it_is_one_500_and_the_replica_goes_on(
    shared_instance: Instance, raiser: str, way: str, kind: str
) -> None:
    answer, record = ask(shared_instance, f"/{raiser}?kind={kind}", way)

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert (record["status"], record["level"]) == (500, "ERROR")
    assert kind in record["error"]
    assert HERE in record["error"]
    assert shared_instance.http.get(f"/{raiser}").text == "fine"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_over_a_handle_it_is_one_exception_each(raiser: str, way: str, kind: str) -> None:
    handle = serve.get_handle(raiser).options(method_name=way or "__call__")
    before = count_failed(raiser)

    with pytest.raises(Exception, match=f"{kind}"):
        handle.call(kind=kind).result(60)
    with pytest.raises(Exception, match=f"{kind}"):
        ray.get(handle.remote(kind=kind), timeout=60)

    wait_until(lambda: count_failed(raiser) == before + 2)
    assert serve.get_handle(raiser).call(None).result(60) == "fine"


def count_failed(name: str) -> int:
    """Records of calls that failed with the user's exception, and of no others."""
    calls = read_records(lambda r: r.get("way") in ("call", "remote") and r["endpoint"] == name)
    failed = [record for record in calls if record["status"] != 200]
    assert all(record["status"] == 500 and HERE in record["error"] for record in failed)
    return len(failed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["streaming", "blocking_stream"])
def test_a_stream_that_breaks_is_cut_and_its_record_says_after_how_much(
    shared_instance: Instance, raiser: str, way: str, kind: str
) -> None:
    request_id = f"told-{next(_ids)}"
    headers = {"X-Request-ID": request_id, "X-Serve-Call-Method": way}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(shared_instance.url(f"/{raiser}?kind={kind}"), headers=headers, timeout=60)

    record = replica_record(request_id)
    assert (record["status"], record["level"], record["bytes_out"]) == (200, "ERROR", 5)
    # One of asyncio's own in a task of Starlette's ends the task, and nobody hears of it.
    told = kind if kind != "CancelledError" else "NoAnswerError"
    assert told in record["error"]
    assert (HERE in record["error"]) == (told == kind)
    assert "after 5 bytes" in record["error"]
    assert shared_instance.http.get(f"/{raiser}").text == "fine"


def replica_record(request_id: str) -> Record:
    """The one record that a replica has of a request."""

    def found() -> list[Record]:
        return read_records(
            lambda r: r.get("request_id") == request_id and r["kind"] == "access", name="replica"
        )

    (record,) = wait_until(found)
    return record


def test_a_client_that_leaves_after_four_of_a_hundred_pieces(
    shared_instance: Instance, raiser: str
) -> None:
    headers = {"X-Request-ID": "left-stream", "X-Serve-Call-Method": "hundred"}
    with httpx.stream("GET", shared_instance.url(f"/{raiser}"), headers=headers) as answer:
        pieces = answer.iter_raw(1000)
        assert sum(len(next(pieces)) for _ in range(4)) == 4000

    record = record_of("left-stream")
    assert (record["status"], record["error"]) == (200, "client_gone")
    assert 4000 <= record["bytes_out"] < 100_000


@pytest.mark.parametrize("way", ["endless", "endless_app"])
def test_a_client_that_leaves_a_stream_without_an_end_and_without_a_pause(
    shared_instance: Instance, raiser: str, way: str
) -> None:
    headers = {"X-Request-ID": f"left-{way}", "X-Serve-Call-Method": way}
    with httpx.stream("GET", shared_instance.url(f"/{raiser}"), headers=headers) as answer:
        assert len(next(answer.iter_raw(60_000))) == 60_000

    record = replica_record(f"left-{way}")
    assert (record["status"], record["error"]) == (200, "client_gone")
    assert shared_instance.http.get(f"/{raiser}").text == "fine"


def test_an_answer_that_is_shorter_than_it_said_is_no_success(
    shared_instance: Instance, raiser: str
) -> None:
    headers = {"X-Request-ID": "short", "X-Serve-Call-Method": "short"}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(shared_instance.url(f"/{raiser}"), headers=headers)
    assert "Content-Length" in replica_record("short")["error"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/raise/", "/blocking/", "/inner/raise/"])
def test_a_route_that_raises_says_it_in_its_record(
    shared_instance: Instance, app: str, path: str, kind: str
) -> None:
    answer, record = ask(shared_instance, f"/{app}{path}{kind}")

    assert (answer.status_code, record["status"]) == (500, 500)
    assert HERE in record["error"]
    is_swallowed = path.startswith("/inner") and kind == "CancelledError"  # by its middleware
    assert kind in record["error"] or is_swallowed


@pytest.mark.parametrize("path", ["plain/at/all", "closing/"])
def test_an_application_within_an_application_says_it_too(
    shared_instance: Instance, app: str, path: str
) -> None:
    answer, record = ask(shared_instance, f"/{app}/{path}")
    assert (answer.status_code, record["status"]) == (500, 500)
    assert record["error"].startswith("ValueError: no luck (test_failures_told.py:")
    assert record["error"].endswith(" in fail_plainly)")


@pytest.mark.parametrize(
    ("path", "status"), [("http/404", 404), ("http/503", 503), ("handled", 503)]
)
def test_what_the_application_answers_itself_is_told_by_its_status(
    shared_instance: Instance, app: str, path: str, status: int
) -> None:
    answer, record = ask(shared_instance, f"/{app}/{path}")
    assert (answer.status_code, record["status"]) == (status, status)
    assert "error" not in record


@contextlib.contextmanager
def talk(instance: Instance, app: str, how: str) -> Iterator[tuple[ClientConnection, str]]:
    request_id = f"told-{next(_ids)}"
    url = f"ws://127.0.0.1:{instance.port}/{app}/ws/{how}"
    with connect(url, additional_headers={"X-Request-ID": request_id}) as connection:
        yield connection, request_id


def hear_close(connection: ClientConnection) -> None:
    with pytest.raises(ConnectionClosed):
        connection.recv(60)


def say_goodbye(connection: ClientConnection) -> None:
    connection.close(1001)


def vanish(connection: ClientConnection) -> None:
    connection.socket.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("how", "end", "code", "error"),
    [
        ("return", hear_close, 1000, ""),
        ("close", hear_close, 4001, ""),
        ("ValueError", hear_close, 1011, "ValueError: no luck"),
        ("Panic", hear_close, 1011, "Panic: no luck"),
        ("SystemExit", hear_close, 1011, "SystemExit: no luck"),
        ("echo", say_goodbye, 1001, ""),
        ("echo", vanish, 1006, "client_gone"),
    ],
)
def test_a_websockets_record_says_how_it_ended(
    shared_instance: Instance,
    app: str,
    how: str,
    end: Callable[[ClientConnection], None],
    code: int,
    error: str,
) -> None:
    with talk(shared_instance, app, how) as (connection, request_id):
        end(connection)

    if end is hear_close:
        assert connection.close_code == code  # what its client sees
    record = record_of(request_id)
    assert (record["status"], record["close_code"]) == (101, code)
    assert record.get("error", "").startswith(error)
    assert (HERE in record.get("error", "")) == (code == 1011)
    assert record["level"] == ("ERROR" if code == 1011 else "INFO")
