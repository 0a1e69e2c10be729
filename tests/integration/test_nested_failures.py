"""A call within a call fails: the cause is told once, where it happened, and named above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records


class Lost(ValueError):
    """The embedder's own."""


async def embedder(request: Any) -> None:
    raise Lost("no such word")


async def searcher(request: Any) -> Any:
    return await serve.get_handle("embedder").call(request.data)


async def front(request: Any) -> Any:
    return await serve.get_handle("searcher").call("word")


@pytest.fixture(scope="module")
def chain(shared_instance: Instance) -> Iterator[Instance]:
    """Three backends, each of which calls the next."""
    for target in (embedder, searcher, front):
        name = target.__name__
        serve.create_backend(name, target)
        serve.create_endpoint(name, backend=name, route="/front" if target is front else None)
    yield shared_instance
    for target in (front, searcher, embedder):
        serve.delete_endpoint(target.__name__)
        serve.delete_backend(target.__name__, force=True)


def records_of(request_id: str) -> list[Record]:
    return wait_until(
        lambda: (
            len(found := read_records(lambda r: r.get("request_id") == request_id)) >= 4 and found
        )
    )


def test_each_step_says_what_failed_and_only_the_one_that_raised_says_how(chain: Instance) -> None:
    answer = chain.http.get("/front", headers={"X-Request-ID": "three-hops"})
    assert answer.status_code == 500
    records = records_of("three-hops")
    steps = {r["backend"]: r for r in records if r["kind"] == "access"}
    replica = steps["embedder"]["replica"]

    assert steps["embedder"]["error"].startswith("Lost: no such word (test_nested_failures.py:")
    assert 'raise Lost("no such word")' in steps["embedder"]["exception"]
    for name, called in (("searcher", "embedder"), ("front", "searcher")):
        told = f"call to {called}.__call__ failed at {replica}: Lost: no such word"
        assert steps[name]["error"].startswith(told)
    (logged,) = (r for r in records if r["kind"] == "log")
    told = f"Request GET /front failed: call to searcher.__call__ failed at {replica}: Lost: no"
    assert logged["message"].startswith(told)
    assert [name for name, step in steps.items() if "exception" in step] == ["embedder"]
    assert "exception" not in logged


def test_who_called_gets_the_users_exception_as_it_was_raised(chain: Instance) -> None:
    with pytest.raises(Lost, match="no such word") as caught:
        serve.get_handle("front").call(None).result(30)
    error = caught.value
    assert isinstance(error, RayTaskError)
    text = str(error)
    assert text.count("no such word") == 2  # the line that raised it, and the exception
    assert "embedder#" in text and "searcher" not in text
    assert "/serve/" not in text


async def remote_searcher(request: Any) -> Any:
    return await (await serve.get_handle("embedder", sync=False).remote("word"))


async def remote_front(request: Any) -> Any:
    inner = request.query_params["inner"]
    return await (await serve.get_handle(inner, sync=False).remote("word"))


@pytest.mark.parametrize("inner", ["searcher", "remote"])
def test_it_is_so_for_calls_that_ray_carries_too(
    chain: Instance, deploy: Deploy, inner: str
) -> None:
    name = deploy(remote_front, route="/{name}")
    second = "searcher" if inner == "searcher" else deploy(remote_searcher)
    request_id = f"{name}-carried"
    path = f"/{name}?inner={second}"
    assert chain.http.get(path, headers={"X-Request-ID": request_id}).status_code == 500
    records = records_of(request_id)
    steps = {r["backend"]: r for r in records if r["kind"] == "access"}
    replica = steps["embedder"]["replica"]
    assert 'raise Lost("no such word")' in steps["embedder"]["exception"]
    for step in (name, second):
        assert steps[step]["error"].startswith("call to ")
        assert f" failed at {replica}: Lost: no such word (test_nested" in steps[step]["error"]
    assert [each for each, step in steps.items() if "exception" in step] == ["embedder"]
    with pytest.raises(Lost):
        ray.get(serve.get_handle("embedder").remote(None))


async def wrapping(request: Any) -> Any:
    try:
        return await serve.get_handle("embedder").call(None)
    except Lost as error:
        raise RuntimeError("the search failed") from error


def test_an_exception_of_ones_own_has_the_call_that_failed_as_its_cause(
    chain: Instance, deploy: Deploy
) -> None:
    name = deploy(wrapping)
    with pytest.raises(RuntimeError, match="the search failed") as caught:
        serve.get_handle(name).call(None).result(30)
    text = str(caught.value)
    assert "call to embedder.__call__ failed at embedder#" in text
    assert "direct cause" in text
    assert "raise Lost" not in text
