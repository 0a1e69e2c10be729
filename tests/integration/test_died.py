"""A replica dies with requests under way: each client has an answer, each request one true record,
and no request takes more replicas along than `retries` says."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

import serve
from serve import HTTPRequest
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records

pytestmark = pytest.mark.usefixtures("instance")


METHODS = ["GET", "POST", "PATCH"]


class Mortal:
    """Dies where it is asked to."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    async def __call__(self, request: HTTPRequest) -> Any:
        asked = request.query_params
        if "die" in asked:
            os._exit(3)
        if "block" in asked:
            Path(asked["mark"]).touch()
            time.sleep(float(asked["block"]))
            os._exit(3)
        if "wait" in asked:
            await asyncio.sleep(float(asked["wait"]))
        if "stream" in asked:
            return StreamingResponse(self.numbers())
        return self.pid

    async def numbers(self) -> AsyncIterator[bytes]:
        for number in range(4):
            yield b"%d\n" % number
            await asyncio.sleep(0.05)
        os._exit(3)


def ended(request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """The access records of a request; those of one that is doubled have the time to come."""

    def find() -> list[dict[str, Any]]:
        return read_records(lambda r: r["kind"] == "access" and r.get("request_id") == request_id)

    wait_until(lambda: len(find()) >= count)
    time.sleep(0.5)
    return find()


def deaths(request_id: str) -> list[str]:
    """What the sidecars say of it."""
    return [
        record["message"]
        for record in read_records(
            lambda r: r["kind"] == "log" and r.get("request_id") == request_id
        )
    ]


def pid_of(instance: Instance, name: str) -> int:
    return int(instance.http.get(f"/{name}").text)


def warm(instance: Instance, name: str) -> None:
    """HAProxy has connections that it used before: the case in which it would say nothing."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: instance.http.get(f"/{name}?wait=0.05"), range(16)))


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_must_not_be_repeated_is_answered_502(
    instance: Instance, bring_up: Deploy, method: str, is_warm: bool
) -> None:
    name = bring_up(Mortal, methods=METHODS)
    if is_warm:
        warm(instance, name)
    request_id = f"{name}-died"
    answer = instance.http.request(
        method, f"/{name}?die", content=b"body", headers={"X-Request-ID": request_id}
    )
    assert answer.status_code == 502
    assert answer.headers["X-Request-ID"] == request_id
    assert answer.headers["X-Serve-Backend"] == name
    replica = answer.headers["X-Serve-Replica"]
    assert replica.startswith(f"{name}#")
    assert "X-Serve-Died" not in answer.headers
    assert replica in answer.text
    (record,) = ended(request_id)
    assert (record["status"], record["error"]) == (502, "replica_died")
    assert (record["backend"], record["replica"], record.get("retries", 0)) == (name, replica, 0)
    (said,) = wait_until(lambda: deaths(request_id))
    assert "it was answered 502" in said
    (ended_by,) = read_records(
        lambda r: r.get("replica") == replica and "process ended" in r.get("message", "")
    )
    assert ended_by["message"].endswith(("exit code 3", "process ended"))


@pytest.mark.parametrize(
    ("num_replicas", "retries", "possible"),
    [(3, 0, {1}), (3, 1, {2}), (3, 2, {3}), (1, 1, {1, 2})],  # a lone one may come back too late
)
def test_what_is_safe_is_tried_again_so_many_times(
    instance: Instance, bring_up: Deploy, num_replicas: int, retries: int, possible: set[int]
) -> None:
    name = bring_up(Mortal, methods=METHODS, num_replicas=num_replicas, retries=retries)
    warm(instance, name)
    request_id = f"{name}-died"
    answer = instance.http.get(f"/{name}?die", headers={"X-Request-ID": request_id})
    assert answer.status_code == 502
    (attempts,) = (n for n in possible if f"(attempt {n})" in answer.text)
    (record,) = ended(request_id)
    assert (record["error"], record.get("retries", 0)) == ("replica_died", attempts - 1)
    said = wait_until(lambda: len(deaths(request_id)) >= attempts and deaths(request_id))
    assert len(said) == attempts
    wait_until(lambda: instance.http.get(f"/{name}").status_code == 200)


def test_who_was_there_by_chance_is_served_by_another(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Mortal, methods=METHODS, num_replicas=2)
    warm(instance, name)
    with ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(
                instance.http.get, f"/{name}?wait=1", headers={"X-Request-ID": f"{name}-{n}"}
            )
            for n in range(8)
        ]
        time.sleep(0.3)
        os.kill(pid_of(instance, name), signal.SIGKILL)
        assert [each.result().status_code for each in waiting] == [200] * 8
    for number in range(8):
        (record,) = ended(f"{name}-{number}")
        assert record["status"] == 200
        assert record.get("retries", 0) == len(deaths(f"{name}-{number}"))


def test_a_request_that_had_not_begun_is_served_by_another(
    instance: Instance, bring_up: Deploy, tmp_path: Path
) -> None:
    """The loop is blocked: what comes meanwhile lies in the kernel, whatever its method."""
    name = bring_up(Mortal, methods=METHODS, num_replicas=2)
    warm(instance, name)
    with ThreadPoolExecutor(20) as pool:
        mark = tmp_path / "blocked"
        killer = pool.submit(instance.http.post, f"/{name}?block=2&mark={mark}", content=b"x")
        wait_until(mark.exists)
        body = b"b" * 100_000
        posts = [pool.submit(instance.http.post, f"/{name}?wait=2", content=body) for _ in range(8)]
        gets = [pool.submit(instance.http.get, f"/{name}?wait=2") for _ in range(8)]
        assert [each.result().status_code for each in posts + gets] == [200] * 16
        assert killer.result().status_code == 502


def test_an_upload_in_its_middle_is_answered(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Mortal, methods=METHODS)
    warm(instance, name)
    with socket.create_connection(("127.0.0.1", instance.port)) as client:
        client.settimeout(30)
        head = f"POST /{name}?die HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        client.sendall(head.encode() + b"x" * 50_000)
        assert client.recv(1000).startswith(b"HTTP/1.1 502 ")


def test_a_stream_that_its_replica_did_not_survive(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Mortal, methods=METHODS)
    request_id = f"{name}-stream"
    with pytest.raises(httpx.RemoteProtocolError):
        instance.http.get(f"/{name}?stream", headers={"X-Request-ID": request_id})
    (record,) = ended(request_id)
    assert (record["status"], record["error"]) == (200, "replica_died")
    assert record["replica"].startswith(f"{name}#")


async def broken(request: HTTPRequest) -> StreamingResponse:
    """A stream that raises in its middle."""

    async def numbers() -> AsyncIterator[bytes]:
        yield b"1234"
        await asyncio.sleep(0.05)
        raise ValueError("no more numbers")

    return StreamingResponse(numbers())


def test_a_stream_that_raises_has_one_record(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(broken)
    request_id = f"{name}-raised"
    with pytest.raises(httpx.RemoteProtocolError):
        instance.http.get(f"/{name}", headers={"X-Request-ID": request_id})
    (record,) = ended(request_id)
    assert record["status"] == 200
    assert "no more numbers" in record["error"]
    assert "after 4 bytes" in record["error"]


def test_a_sidecar_that_ended_is_replaced(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Mortal, methods=METHODS)
    warm(instance, name)
    replica = pid_of(instance, name)
    first = sidecar_of(replica)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    second = wait_until(lambda: sidecar_of(replica) not in (None, first) and sidecar_of(replica))
    assert second != first
    time.sleep(0.5)
    assert instance.http.post(f"/{name}?die").status_code == 502


def test_a_sidecar_ends_with_its_replica(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Mortal, methods=METHODS)
    sidecar = sidecar_of(pid_of(instance, name))
    assert sidecar is not None
    serve.delete_endpoint(name)
    serve.delete_backend(name)
    wait_until(lambda: not os.path.exists(f"/proc/{sidecar}"))


def sidecar_of(replica: int) -> int | None:
    """Process id of a replica's sidecar."""
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        program, pid = words[3:4], words[6:7]
        if program and program[0].endswith(b"sidecar/program.py") and pid == [b"%d" % replica]:
            return int(entry)
    return None
