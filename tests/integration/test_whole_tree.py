"""A tree is whole: a batch and what it calls, and what each of several siblings says."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import serve
from observability.trail.query import Query
from observability.trail.show import show_request
from observability.trail.tree import Step, assemble
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records

IDS = ["mate-1", "mate-2", "mate-3"]


async def embed(request: Any) -> int:
    return len(request.data)


@serve.accept_batch
async def rank(requests: list[Any]) -> list[int]:
    size = await serve.get_handle("embed").call("together")
    return [size] * len(requests)


@pytest.fixture
def ranked(shared_instance: Instance, deploy: Deploy) -> str:
    """Three requests were answered by one batch, which called `embed`; the endpoint's name."""
    serve.create_backend("embed", embed)
    serve.create_endpoint("embed", backend="embed")
    name = deploy(rank, route="/rank", max_batch_size=3, batch_wait_timeout=10.0)
    with ThreadPoolExecutor(3) as pool:
        answers = pool.map(
            lambda id: shared_instance.http.get("/rank", headers={"X-Request-ID": id}), IDS
        )
        assert [answer.text for answer in answers] == ["8"] * 3
    return name


def trees_of(request_id: str) -> list[Step]:
    return assemble(read_records(Query(request_id=request_id).matches))


def test_each_request_of_a_batch_shows_its_mates_and_what_the_batch_called(ranked: str) -> None:
    for request_id in IDS:
        (root,) = wait_until(
            lambda request_id=request_id: [s for s in trees_of(request_id) if s.children]  # type: ignore[misc]
        )
        assert root.access is not None
        mates = sorted(set(IDS) - {request_id})
        assert (root.access["endpoint"], sorted(root.access["batch_mates"])) == (ranked, mates)
        (called,) = root.children
        assert called.access is not None
        assert (called.access["endpoint"], sorted(called.access["batch_ids"])) == ("embed", IDS)
        lines = "\n".join(show_request([root], request_id))
        assert f"in a batch with {root.access['batch_mates'][0]}" in lines
        assert "embed.__call__" in lines


async def mutter(request: Any) -> None:
    for _ in range(3):
        logging.getLogger("mutter").warning("I am %s", request.data)
        await asyncio.sleep(0.02)


async def ask_all(request: Any) -> None:
    handle = serve.get_handle("mutter")
    await asyncio.gather(*(handle.call(name) for name in "abcd"))


def test_what_siblings_say_at_the_same_time_is_told_apart(
    shared_instance: Instance, deploy: Deploy
) -> None:
    serve.create_backend("mutter", mutter)
    serve.create_endpoint("mutter", backend="mutter")
    deploy(ask_all, route="/ask")
    shared_instance.http.get("/ask", headers={"X-Request-ID": "siblings"}).raise_for_status()
    (root,) = wait_until(lambda: [s for s in trees_of("siblings") if len(s.children) == 4])
    said = [[record["message"] for record in step.logs] for step in root.children]
    assert sorted(said) == [[f"I am {name}"] * 3 for name in "abcd"]


async def delegate(request: Any) -> None:
    loop = asyncio.get_running_loop()
    for number in range(2):
        await loop.run_in_executor(None, logging.getLogger("pool").warning, "number %d", number)


def test_what_the_loops_executor_runs_belongs_to_the_request(
    shared_instance: Instance, deploy: Deploy
) -> None:
    deploy(delegate, route="/delegate")
    http = shared_instance.http
    http.get("/delegate", headers={"X-Request-ID": "delegated"}).raise_for_status()
    (root,) = trees_of("delegated")
    assert [record["message"] for record in root.logs] == ["number 0", "number 1"]
