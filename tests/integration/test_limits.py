"""How many requests a replica works on, and what becomes of those that are too many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import ray

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.series import in_hand

pytestmark = pytest.mark.slow

BOTH = ["GET", "POST"]


class Gated:
    """Holds its requests until it is told to let them go, and counts them."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.free = asyncio.Event()
        self.changed = asyncio.Condition()

    async def __call__(self, request: Any) -> str:
        self.inside += 1
        self.most = max(self.most, self.inside)
        async with self.changed:
            self.changed.notify_all()
        await self.free.wait()
        self.inside -= 1
        return "done"


class Sleepy:
    """Tells how many requests were inside at once, at most; none leaves before `meet` have met."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    async def __call__(self, request: Any) -> int:
        self.inside += 1
        self.most = max(self.most, self.inside)
        while self.most < int(request.query_params.get("meet", "1")):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)  # one too many would come now
        self.inside -= 1
        return self.most

    async def forget(self) -> None:
        self.most = 0


@pytest.fixture(scope="module")
def sleepy(keep: Deploy) -> str:
    """A backend of Sleepy, at `/sleepy`."""
    return keep(Sleepy, route="/sleepy")


def limit(backend: str, count: int) -> None:
    """Let it work on so many requests at once, while it runs."""
    serve.update_backend_config(backend, {"max_concurrent_queries": count})
    serve.get_handle(backend).options(method_name="forget").call().result(60)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that wait."""
    with ThreadPoolExecutor(24) as threads:
        yield threads


def test_max_concurrent_queries_holds_over_http_and_can_change_while_the_replica_runs(
    instance: Instance, sleepy: str, pool: ThreadPoolExecutor
) -> None:
    for count in (3, 1, 4):
        limit(sleepy, count)
        answers = list(pool.map(instance.http.get, [f"/sleepy?meet={count}"] * 24))
        assert {answer.status_code for answer in answers} == {200}
        assert max(int(answer.text) for answer in answers) == count


def test_max_concurrent_queries_holds_for_handles(sleepy: str) -> None:
    limit(sleepy, 3)
    handle = serve.get_handle(sleepy)
    assert max(call.result() for call in [handle.call(meet=3) for _ in range(20)]) == 3
    assert max(ray.get([handle.remote(meet=3) for _ in range(20)])) == 3


def test_max_concurrent_queries_holds_over_all_ways_together(
    instance: Instance, sleepy: str, pool: ThreadPoolExecutor
) -> None:
    limit(sleepy, 2)
    handle = serve.get_handle(sleepy)
    web = [pool.submit(instance.http.get, "/sleepy?meet=2") for _ in range(10)]
    calls = [handle.call() for _ in range(10)]
    references = [pool.submit(handle.remote) for _ in range(10)]
    most = [int(future.result().text) for future in web]
    most += [call.result() for call in calls]
    most += ray.get([future.result() for future in references])
    assert max(most) == 2


def test_each_replica_has_the_limit_for_itself(
    instance: Instance, bring_up: Deploy, pool: ThreadPoolExecutor
) -> None:
    class Meeting:
        def __init__(self, barrier: Any) -> None:
            self.barrier = barrier

        async def __call__(self, request: Any) -> str:
            await self.barrier.meet.remote()
            return serve.get_current_replica_tag()

    class Barrier:
        def __init__(self) -> None:
            self.count, self.met = 0, asyncio.Event()

        async def meet(self) -> None:
            self.count += 1
            if self.count == 4:
                self.met.set()
            await asyncio.wait_for(self.met.wait(), 60)

    barrier = ray.remote(Barrier).options(num_cpus=0).remote()
    name = bring_up(Meeting, barrier, num_replicas=2, max_concurrent_queries=2)
    tags = [answer.text for answer in pool.map(instance.http.get, [f"/{name}"] * 4)]
    assert sorted(tags.count(tag) for tag in set(tags)) == [2, 2]


def fill(
    instance: Instance, name: str, pool: ThreadPoolExecutor, count: int
) -> list[Future[httpx.Response]]:
    """So many requests that wait: one in the replica, the others in HAProxy's queue."""
    # HAProxy would repeat a GET for 5 s when its replica ends.
    waiting = [pool.submit(instance.http.post, f"/{name}") for _ in range(count)]
    wait_until(lambda: in_hand(name) == (1, count - 1))
    return waiting


def test_a_full_queue_is_503_with_retry_after(
    instance: Instance, bring_up: Deploy, pool: ThreadPoolExecutor
) -> None:
    class Held(Gated):
        async def release(self) -> None:
            self.free.set()

    name = bring_up(Held, methods=BOTH, max_concurrent_queries=1, max_queued_queries=2)
    waiting = fill(instance, name, pool, 3)
    refused = instance.http.get(f"/{name}", headers={"x-request-id": "too-many"})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-request-id"] == "too-many"
    assert name in refused.text and "full" in refused.text
    serve.update_backend_config(name, {"max_concurrent_queries": 10})  # lets `release` in
    serve.get_handle(name).options(method_name="release").call().result(60)
    assert [future.result().text for future in waiting] == ["done"] * 3


def test_an_expired_wait_is_503_with_retry_after(
    instance: Instance, bring_up: Deploy, pool: ThreadPoolExecutor
) -> None:
    name = bring_up(Gated, methods=BOTH, max_concurrent_queries=1, queue_timeout_s=0.3)
    [held] = fill(instance, name, pool, 1)
    started = time.monotonic()
    refused = instance.http.get(f"/{name}", headers={"x-request-id": "too-late"})
    assert refused.status_code == 503
    assert time.monotonic() - started >= 0.25
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-request-id"] == "too-late"
    assert name in refused.text
    serve.delete_endpoint(name)
    serve.delete_backend(name, force=True)
    held.result()


def test_a_full_queue_of_a_handle_is_an_error(bring_up: Deploy) -> None:
    name = bring_up(Gated, max_concurrent_queries=1, max_queued_queries=2)
    handle = serve.get_handle(name)
    calls = [handle.call()]
    wait_until(lambda: in_hand(name)[0] == 1)  # before, the handle knows neither replica nor limit
    calls += [handle.call() for _ in range(3)]
    with pytest.raises(serve.QueueFullError, match=f"'{name}' is full: 2 calls wait"):
        calls[3].result(60)
    for call in calls[:3]:
        assert call.cancel()


def test_an_expired_wait_of_a_handle_is_an_error_in_both_kinds_of_call(bring_up: Deploy) -> None:
    name = bring_up(Gated, max_concurrent_queries=1, queue_timeout_s=0.3)
    handle = serve.get_handle(name)
    words = f"'{name}' had no replica free within 0.3 s"
    first, second = handle.call(), handle.call()
    with pytest.raises(serve.QueueTimeoutError, match=words):
        second.result(60)
    first.cancel()
    wait_until(lambda: in_hand(name)[0] == 0)
    held = handle.remote()
    wait_until(lambda: in_hand(name)[0] == 1)
    with pytest.raises(serve.QueueTimeoutError, match=words):
        handle.remote()
    ray.cancel(held)


def test_a_request_whose_client_leaves_the_queue_is_never_run(
    instance: Instance, bring_up: Deploy, pool: ThreadPoolExecutor
) -> None:
    class Held(Gated):
        async def release(self) -> int:
            self.free.set()
            return self.most

    name = bring_up(Held, methods=BOTH, max_concurrent_queries=1)
    [held] = fill(instance, name, pool, 1)
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(instance.url(f"/{name}"), timeout=0.2)
    wait_until(lambda: in_hand(name) == (1, 0))
    serve.update_backend_config(name, {"max_concurrent_queries": 10})
    assert serve.get_handle(name).options(method_name="release").call().result(60) == 1
    assert held.result().text == "done"
