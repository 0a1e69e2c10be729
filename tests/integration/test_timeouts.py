"""A replica that is silent for too long: the client has a 504, the request one record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.responses import StreamingResponse

import serve
from serve import HTTPRequest
from tests.conftest import free_port
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.series import page, total

SILENCE_S = 1.0


async def dawdle(request: HTTPRequest) -> str:
    await asyncio.sleep(3 * SILENCE_S)
    return "too late"


def dawdle_in_thread(request: HTTPRequest) -> str:
    time.sleep(2 * SILENCE_S)
    return "too late"


async def stall(request: HTTPRequest) -> StreamingResponse:
    async def numbers() -> AsyncIterator[bytes]:
        yield b"1234"
        await asyncio.sleep(3 * SILENCE_S)
        yield b"5678"

    return StreamingResponse(numbers())


@pytest.fixture(scope="module")
def http(ray_cluster: None) -> Iterator[httpx.Client]:
    port = free_port()
    serve.start(detached=True, http_options={"port": port, "request_timeout_s": SILENCE_S})
    for target in (dawdle, dawdle_in_thread, stall):
        name = target.__name__
        serve.create_backend(name, target)
        serve.create_endpoint(name, backend=name, route=f"/{name}")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    serve.shutdown()


def told(request_id: str) -> list[Record]:
    """Its access records; one too many has the time to come."""

    def find() -> list[Record]:
        return read_records(lambda r: r["kind"] == "access" and r["request_id"] == request_id)

    wait_until(find)
    time.sleep(2.5 * SILENCE_S)
    return find()


@pytest.mark.parametrize("name", ["dawdle", "dawdle_in_thread"])
def test_no_answer_in_time_is_one_record_of_the_ingress(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/{name}", headers={"X-Request-ID": f"late-{name}"})
    assert answer.status_code == 504
    (record,) = told(f"late-{name}")
    assert (record["component"], record["status"]) == ("ingress", 504)
    assert record["error"] == "replica_timeout"
    assert record["replica"].startswith(f"{name}#")
    ended = "ray_serve_endpoint_requests_total"
    assert wait_until(lambda: total(page(), ended, endpoint=name)) == 1


def test_an_answer_that_stalls_is_one_record_of_the_replica(http: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        http.get("/stall", headers={"X-Request-ID": "late-stall"})
    (record,) = told("late-stall")
    assert (record["component"], record["status"]) == ("serve", 200)
    assert (record["error"], record["bytes_out"]) == ("replica_timeout", 4)


def test_a_client_that_leaves_before_is_gone_as_ever(http: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.get("/dawdle", headers={"X-Request-ID": "left-early"}, timeout=SILENCE_S / 4)
    (record,) = told("left-early")
    assert (record["status"], record["error"]) == (499, "client_gone")
