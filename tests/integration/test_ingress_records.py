"""A request that no replica answered has its access record from the ingress, with the reason."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.samples import greet
from tests.integration.series import in_hand


async def pause(request: Any) -> str:
    """Answers once there is a file of the name it is told, if any."""
    until = request.query_params.get("until")
    while until and not os.path.exists(until):
        await asyncio.sleep(0.01)
    return "rested"


async def die(request: Any) -> None:
    os._exit(1)


def large(request: Any) -> bytes:
    return b"x" * 100_000


def record_of(request_id: str) -> Record:
    """The one access record with this id; it may come a moment after the answer."""

    def access() -> list[Record]:
        return read_records(
            lambda record: record.get("request_id") == request_id and record["kind"] == "access"
        )

    wait_until(access)
    time.sleep(0.1)  # a second one would be wrong
    (record,) = access()
    return record


def ask(instance: Instance, method: str, path: str, request_id: str) -> httpx.Response:
    return httpx.request(
        method, instance.url(path), headers={"X-Request-ID": request_id}, timeout=30
    )


@pytest.fixture(scope="module")
def greeter(keep: Deploy) -> str:
    """A backend of `greet`, at `/greet`."""
    return keep(greet, route="/greet")


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nowhere/at/all", 404, "not_found"),
        ("POST", "/greet", 405, "method_not_allowed"),
        ("GET", "/greet/", 307, ""),
        ("GET", "/-/routes", 200, ""),
    ],
)
def test_what_the_ingress_answers_by_itself(
    instance: Instance, greeter: str, method: str, path: str, status: int, error: str
) -> None:
    request_id = f"own-{status}"

    assert ask(instance, method, path, request_id).status_code == status

    record = record_of(request_id)
    assert record["component"] == "ingress"
    assert (record["method"], record["path"]) == (method, path)
    assert record["status"] == status
    assert record.get("error", "") == error
    assert "replica" not in record
    assert "backend" not in record


def test_a_full_queue(instance: Instance, bring_up: Deploy, tmp_path: Path) -> None:
    name = bring_up(pause, max_concurrent_queries=1, max_queued_queries=1, queue_timeout_s=600)
    let_go = tmp_path / "go"
    path = f"/{name}?until={let_go}"
    with ThreadPoolExecutor(3) as pool:
        answers = []
        for order, hands in (("first", (1, 0)), ("waits", (1, 1))):
            answers.append(pool.submit(ask, instance, "GET", path, f"queue-{order}"))
            wait_until(lambda hands=hands: in_hand(name) == hands)
        answers.append(pool.submit(ask, instance, "GET", path, "queue-refused"))
        answers[2].result(60)
        let_go.touch()
        statuses = [answer.result(60).status_code for answer in answers]

    assert statuses == [200, 200, 503]
    assert record_of("queue-first")["component"] == "serve"
    refused = record_of("queue-refused")
    assert (refused["error"], refused["status"], refused["backend"]) == ("queue_full", 503, name)


def test_a_wait_that_was_too_long(instance: Instance, bring_up: Deploy, tmp_path: Path) -> None:
    name = bring_up(pause, max_concurrent_queries=1, queue_timeout_s=0.5)
    let_go = tmp_path / "go"
    path = f"/{name}?until={let_go}"
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, instance, "GET", path, "wait-held")
        wait_until(lambda: in_hand(name) == (1, 0))
        assert ask(instance, "GET", path, "wait-expired").status_code == 503
        let_go.touch()
        assert held.result(60).status_code == 200

    waited = record_of("wait-expired")
    assert (waited["error"], waited["status"], waited["endpoint"]) == ("queue_timeout", 503, name)
    assert waited["queue_ms"] >= 400


def test_a_client_that_leaves_the_queue_or_while_a_replica_works(
    instance: Instance, bring_up: Deploy, tmp_path: Path
) -> None:
    name = bring_up(pause, max_concurrent_queries=1)
    let_go = tmp_path / "go"
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(ask, instance, "GET", f"/{name}?until={let_go}", "leaver-busy")
        wait_until(lambda: in_hand(name) == (1, 0))
        with socket.create_connection(("127.0.0.1", instance.port)) as leaver:
            leaver.sendall(
                f"GET /{name} HTTP/1.1\r\nHost: x\r\nX-Request-ID: leaver\r\n\r\n".encode()
            )
            wait_until(lambda: in_hand(name) == (1, 1))
        record = record_of("leaver")
        let_go.touch()
        assert busy.result(60).status_code == 200

    assert (record["error"], record["status"]) == ("client_gone", 499)
    assert (record["component"], record["backend"]) == ("ingress", name)

    wait_until(lambda: in_hand(name) == (0, 0))
    path = f"/{name}?until={tmp_path / 'never'}"
    with socket.create_connection(("127.0.0.1", instance.port)) as leaver:
        leaver.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: left\r\n\r\n".encode())
        wait_until(lambda: in_hand(name) == (1, 0))

    record = record_of("left")
    assert (record["error"], record["status"]) == ("client_gone", 499)
    assert record["component"] == "serve"


def test_a_replica_that_dies_with_the_request(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(die, methods=["POST"])

    assert ask(instance, "POST", f"/{name}", "died").status_code == 502

    record = record_of("died")
    assert (record["error"], record["status"]) == ("replica_died", 502)
    assert (record["component"], record["backend"], record["endpoint"]) == ("ingress", name, name)


def test_what_is_no_http_has_a_record_with_a_made_id(instance: Instance) -> None:
    def bad_requests() -> list[Record]:
        return read_records(lambda record: record.get("error") == "bad_request", name="ingress")

    before = len(bad_requests())
    with socket.create_connection(("127.0.0.1", instance.port)) as client:
        client.sendall(b"GET /a\x01b HTTP/1.1\r\nHost: x\r\nX-Request-ID: never\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")

    wait_until(lambda: len(bad_requests()) == before + 1)
    record = bad_requests()[-1]
    assert record["status"] == 400
    assert len(record["request_id"]) == 32


def test_what_only_the_replicas_server_refuses_has_a_record(
    instance: Instance, greeter: str
) -> None:
    with socket.create_connection(("127.0.0.1", instance.port)) as client:
        head = "GET /greet HTTP/1.1\r\nHost: x\r\nX-Request-ID: refused\r\n"
        client.sendall(f"{head}X-Odd: \x7f\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    record = record_of("refused")
    assert (record["error"], record["status"]) == ("bad_request", 400)
    assert (record["component"], record["backend"]) == ("ingress", greeter)


def test_a_health_check_leaves_no_record(instance: Instance) -> None:
    assert ask(instance, "GET", "/-/healthz", "healthy").status_code == 200
    assert ask(instance, "GET", "/not/there", "after-healthy").status_code == 404
    record_of("after-healthy")

    assert not read_records(lambda record: record.get("request_id") == "healthy")


def test_a_large_answer_has_one_record_too(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(large)

    assert len(ask(instance, "GET", f"/{name}", "large").content) == 100_000

    record = record_of("large")
    assert (record["component"], record["bytes_out"]) == ("serve", 100_000)
