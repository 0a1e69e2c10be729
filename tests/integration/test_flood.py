"""A flood of requests that no endpoint takes: all counted, few recorded, no other record lost."""

from __future__ import annotations

import socket
import threading

import pytest

from serve.ids import make_request_id
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.samples import greet
from tests.integration.series import page, total
from tests.integration.test_ingress_records import ask, record_of

pytestmark = pytest.mark.slow

SENDERS = 4
EACH = 5_000
BATCH = 50


def send(port: int, path: str) -> None:
    """Send EACH requests over one connection, a batch at a time."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for _ in range(EACH // BATCH):
            connection.sendall(request * BATCH)
            answers = b""
            while answers.count(b"HTTP/1.1 4") < BATCH:
                answers += connection.recv(1_000_000)


def flood(port: int, path: str) -> None:
    threads = [threading.Thread(target=send, args=(port, path)) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def counted() -> tuple[float, float, float]:
    """Requests of HTTP that ended with 4xx without a backend, records left out, records dropped."""
    series = page()
    return (
        total(series, "ray_serve_endpoint_requests_total", status_class="4xx")
        - total(series, "ray_serve_endpoint_requests_total", status_class="4xx", backend="flooded"),
        total(series, "ray_serve_records_left_out_total"),
        total(series, "ray_serve_records_dropped_total", component="ingress"),
    )


def recorded(path: str) -> list[Record]:
    return read_records(lambda record: record.get("path") == path, name="_strays")


@pytest.mark.parametrize("kind", ["no route", "no method"])
def test_a_flood_is_counted_and_sampled(instance: Instance, bring_up: Deploy, kind: str) -> None:
    name = bring_up(greet, methods=["POST"])
    path = f"/{name}" if kind == "no method" else f"/no/{name}"
    before = counted()

    flood(instance.port, path)
    request_id = make_request_id()
    assert ask(instance, "POST", f"/{name}", request_id).status_code == 200
    assert record_of(request_id)["status"] == 200

    def increase() -> list[float]:
        return [now - then for now, then in zip(counted(), before, strict=True)]

    # What HAProxy could not hand over is counted by itself.
    wait_until(lambda: increase()[0] + increase()[2] == SENDERS * EACH)
    requests, left_out, _ = increase()
    assert left_out > 0
    wait_until(lambda: len(recorded(path)) == requests - left_out)
    assert len(recorded(path)) < SENDERS * EACH / 2


def test_few_requests_that_no_endpoint_takes_are_all_recorded(instance: Instance) -> None:
    def is_calm() -> bool:
        """The second in which a test before ended its flood is over: no luck is that long."""
        paths = [f"/no/{make_request_id()}" for _ in range(5)]
        for path in paths:
            ask(instance, "GET", path, "probe")
        page()  # the ingress has read the lines
        return all(recorded(path) for path in paths)

    wait_until(is_calm)
    for number in range(20):
        assert ask(instance, "GET", "/no/few", f"few-{number}").status_code == 404
    wait_until(lambda: len(recorded("/no/few")) == 20)
