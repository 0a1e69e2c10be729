"""Time is told as it was spent: what a request waited for, and what its handler took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serve
from serve.errors import QueueTimeoutError
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records
from tests.integration.series import page, total

SLEEP_MS = 300


def sleep(request: Any) -> str:
    time.sleep(SLEEP_MS / 1000)
    return "slept"


def hold(request: Any) -> str:
    """Keeps its thread until the file is there that the request names."""
    path = Path(request.query_params["until"])
    while not path.exists():
        time.sleep(0.05)
    return "released"


@serve.accept_batch
def together(requests: list[Any]) -> list[int]:
    time.sleep(SLEEP_MS / 1000)
    return [len(requests)] * len(requests)


@pytest.fixture
def until(tmp_path: Path) -> Iterator[Path]:
    """A file; `hold` ends once it is there, and it is there at the test's end."""
    path = tmp_path / "go"
    yield path
    path.touch()


def at_hand(name: str) -> tuple[float, float]:
    """Requests that code of the replicas works for, and those that wait at them."""
    series = page()
    return (
        total(series, "ray_serve_replica_processing_queries", backend=name),
        total(series, "ray_serve_replica_queued_queries", backend=name),
    )


def told(name: str, count: int) -> list[Record]:
    """The access records of an endpoint, once there are so many."""
    return wait_until(
        lambda: (
            len(
                found := read_records(lambda r: r["kind"] == "access" and r.get("endpoint") == name)
            )
            >= count
            and found
        )
    )


def parts(record: Record) -> float:
    return sum(record.get(name, 0.0) for name in ("sender_ms", "replica_ms", "batch_ms"))


def test_waiting_for_the_thread_is_waiting(shared_instance: Instance, deploy: Deploy) -> None:
    name = deploy(sleep, route="/sleep")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: shared_instance.http.get("/sleep").raise_for_status(), range(6)))
    records = sorted(told(name, 6), key=lambda record: record["queue_ms"])
    assert records[-1]["replica_ms"] > 0
    for record in records:
        assert record["processing_ms"] >= SLEEP_MS - 5
        assert abs(record["queue_ms"] - parts(record)) < 0.01
    # One thread: no two ran at the same time, but for the loop's hearing of the end.
    whole_ms = max(record["queue_ms"] + record["processing_ms"] for record in records)
    assert sum(record["processing_ms"] for record in records) <= 1.2 * whole_ms


def test_who_waits_for_the_thread_is_queued(
    shared_instance: Instance, deploy: Deploy, until: Path
) -> None:
    name = deploy(hold, route="/hold")
    with ThreadPoolExecutor(6) as pool:
        url = f"/hold?until={until}"
        answers = [pool.submit(shared_instance.http.get, url) for _ in range(6)]
        wait_until(lambda: at_hand(name) == (1.0, 5.0))
        until.touch()
        assert [answer.result().status_code for answer in answers] == [200] * 6
    wait_until(lambda: at_hand(name) == (0.0, 0.0))


@pytest.mark.parametrize("way", ["http", "call"])
def test_the_limit_of_the_wait_holds_for_the_thread_too(
    shared_instance: Instance, deploy: Deploy, until: Path, way: str
) -> None:
    name = deploy(hold, route=f"/limit_{way}", queue_timeout_s=0.5)
    with ThreadPoolExecutor(2) as pool:
        url = f"/limit_{way}?until={until}"
        first = pool.submit(shared_instance.http.get, url)
        wait_until(lambda: at_hand(name) == (1.0, 0.0))
        if way == "http":
            second = shared_instance.http.get(url)
            assert second.status_code == 503
            assert "handler_threads" in second.text
        else:
            with pytest.raises(QueueTimeoutError, match="handler_threads"):
                serve.get_handle(name).call(None).result(30)
        until.touch()
        assert first.result().status_code == 200
    refused, _ = told(name, 2)
    assert (refused["status"], refused["error"]) == (503, "queue_timeout")
    assert refused["queue_ms"] >= 500 - 5
    assert refused["processing_ms"] < refused["queue_ms"]


def test_waiting_for_the_batch_is_waiting(shared_instance: Instance, deploy: Deploy) -> None:
    wait_s = 0.4
    name = deploy(together, route="/together", max_batch_size=2, batch_wait_timeout=wait_s)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: shared_instance.http.get("/together").json(), range(3)))
    records = sorted(told(name, 3), key=lambda record: record.get("batch_ms", 0.0))
    for record in records:
        assert record["processing_ms"] >= SLEEP_MS - 5
        assert abs(record["queue_ms"] - parts(record)) < 0.01
    assert records[-1]["batch_ms"] >= SLEEP_MS - 5  # the third one waited for the two before


def test_a_full_batch_that_waits_in_vain_is_refused(
    shared_instance: Instance, deploy: Deploy
) -> None:
    name = deploy(
        together, route="/vain", max_batch_size=2, batch_wait_timeout=5.0, queue_timeout_s=0.3
    )
    answer = shared_instance.http.get("/vain")
    assert (answer.status_code, "max_batch_size" in answer.text) == (503, True)
    (record,) = told(name, 1)
    assert (record["error"], record["batch_ms"] >= 300 - 5) == ("queue_timeout", True)
