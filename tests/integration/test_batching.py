"""Batches over HTTP and handles: `accept_batch` and `serve.batch` in real replicas."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until

pytestmark = pytest.mark.slow

WAIT = {"max_batch_size": 4, "batch_wait_timeout": 600.0}  # only a full batch ever goes


@serve.accept_batch
def count_requests(requests: list[Any]) -> list[str]:
    return [f"{len(requests)} {request.query_params['n']}" for request in requests]


def get_numbered(instance: Instance, name: str, count: int, begin: int = 0) -> list[str]:
    """The answers to requests 0, 1, 2... or from another number, that are under way together."""
    with ThreadPoolExecutor(count) as pool:
        paths = [f"/{name}?n={n}" for n in range(begin, begin + count)]
        return [answer.text for answer in pool.map(instance.http.get, paths)]


@pytest.fixture(scope="module")
def counting(keep: Deploy) -> str:
    """A backend that takes four requests at a time, at `/counting`."""
    return keep(count_requests, route="/counting", **WAIT)


def test_requests_over_http_that_come_together_are_a_batch_answered_in_order(
    instance: Instance, counting: str
) -> None:
    assert get_numbered(instance, "counting", 4) == ["4 0", "4 1", "4 2", "4 3"]


def test_calls_of_both_kinds_of_handle_are_batched_alike(counting: str) -> None:
    handle = serve.get_handle(counting)
    assert ray.get([handle.remote(n=n) for n in range(4)]) == ["4 0", "4 1", "4 2", "4 3"]
    calls = [handle.call(n=n) for n in range(4)]
    assert [call.result() for call in calls] == ["4 0", "4 1", "4 2", "4 3"]


def test_size_and_wait_of_batches_can_change_while_the_replica_runs(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(count_requests)  # without a size a marked backend gets lists of one
    assert set(get_numbered(instance, name, 3)) == {"1 0", "1 1", "1 2"}
    serve.update_backend_config(name, {"max_batch_size": 4})  # no wait: what is there is a batch
    assert get_numbered(instance, name, 1) == ["1 0"]
    serve.update_backend_config(name, {"batch_wait_timeout": 0.5})  # less than full goes after it
    wait_until(lambda: get_numbered(instance, name, 2) == ["2 0", "2 1"])  # within the wait
    serve.update_backend_config(name, {"max_batch_size": 3, "batch_wait_timeout": 600.0})
    assert get_numbered(instance, name, 3) == ["3 0", "3 1", "3 2"]


def test_what_waited_while_a_batch_ran_is_the_next_batch_up_to_its_size(
    bring_up: Deploy,
) -> None:
    @serve.accept_batch
    class Gated:
        def __init__(self) -> None:
            self.free = threading.Event()
            self.begun = threading.Event()

        def __call__(self, requests: list[Any]) -> list[int]:
            self.begun.set()
            self.free.wait(60)
            return [len(requests)] * len(requests)

        async def wait_begun(self) -> None:
            while not self.begun.is_set():
                await asyncio.sleep(0.01)

        async def release(self) -> None:
            self.free.set()

    handle = serve.get_handle(bring_up(Gated, max_batch_size=5, max_concurrent_queries=20))
    first = handle.call()
    handle.options(method_name="wait_begun").call().result()
    calls = [first, *(handle.call() for _ in range(11))]
    handle.options(method_name="release").call().result()
    assert [call.result() for call in calls] == [1, *[5] * 10, 1]


def test_an_async_backend_may_accept_batches(instance: Instance, bring_up: Deploy) -> None:
    class Async:
        @serve.accept_batch
        async def __call__(self, requests: list[Any]) -> list[int]:
            bodies = await asyncio.gather(*(request.body() for request in requests))
            return [len(requests) * len(body) for body in bodies]

    name = bring_up(Async, methods=["POST"], **WAIT)
    with ThreadPoolExecutor(4) as pool:
        bodies = [b"x" * n for n in range(4)]
        answers = pool.map(lambda body: instance.http.post(f"/{name}", content=body), bodies)
        assert [answer.text for answer in answers] == ["0", "4", "8", "12"]


WRONG: dict[str, Any] = {
    "short": [1],
    "dictionary": {1: 1, 2: 2},
    "set": {1, 2},
    "string": "ab",
    "nothing": None,
}


class Several:
    """Methods that take two requests at a time; the requests of one batch ask for the same."""

    @serve.accept_batch
    def double(self, requests: list[Any]) -> list[Any]:
        return [(len(requests), 2 * request.data) for request in requests]

    @serve.accept_batch
    def triple(self, requests: list[Any]) -> list[Any]:
        return [(len(requests), 3 * request.data) for request in requests]

    @serve.accept_batch
    def square(self, requests: list[Any]) -> Any:
        import numpy as np

        return np.array([request.data for request in requests]) ** 2

    @serve.accept_batch
    def answer_wrongly(self, requests: list[Any]) -> Any:
        return WRONG[requests[0].data]

    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[str]:
        if any(request.query_params["n"] == "1" for request in requests):
            raise ArithmeticError("bad mood")
        return ["good"] * len(requests)


@pytest.fixture(scope="module")
def several(keep: Deploy) -> str:
    return keep(Several, route="/several", max_batch_size=2, batch_wait_timeout=600.0)


def test_requests_for_different_methods_are_different_batches(several: str) -> None:
    handle = serve.get_handle(several)
    calls = [
        handle.options(method_name=name).call(n) for n in (1, 2) for name in ("double", "triple")
    ]
    assert [call.result() for call in calls] == [(2, 2), (2, 3), (2, 4), (2, 6)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("short", "doesn't preserve batch size. The input has length 2 but .* length 1"),
        ("dictionary", "expects an ordered iterable object but the replica returned a .*dict"),
        ("set", "expects an ordered iterable object"),
        ("string", "expects an ordered iterable object"),
        ("nothing", "expects an ordered iterable object"),
    ],
)
def test_a_batch_answered_wrongly_is_an_error_for_each_of_its_requests(
    several: str, answer: str, words: str
) -> None:
    handle = serve.get_handle(several).options(method_name="answer_wrongly")
    for call in [handle.call(answer), handle.call(answer)]:
        with pytest.raises(serve.RayServeException, match=words):
            call.result()


def test_an_exception_goes_to_every_request_of_its_batch_and_the_next_one_runs(
    instance: Instance, several: str
) -> None:
    assert get_numbered(instance, "several", 2) == ["Internal Server Error"] * 2
    assert get_numbered(instance, "several", 2, begin=2) == ["good"] * 2


def test_arrays_may_be_a_batchs_answer(several: str) -> None:
    handle = serve.get_handle(several).options(method_name="square")
    calls = [handle.call(n) for n in (2, 3)]
    assert [call.result() for call in calls] == [4, 9]


def test_serve_batch_collects_the_calls_of_one_replica(
    instance: Instance, bring_up: Deploy
) -> None:
    class Model:
        @serve.batch(max_batch_size=3, batch_wait_timeout_s=10)
        async def predict(self, numbers: list[int]) -> list[str]:
            return [f"{len(numbers)} {number}" for number in numbers]

        async def __call__(self, request: Any) -> str:
            return await self.predict(int(request.query_params["n"]))

    assert get_numbered(instance, bring_up(Model), 3) == ["3 0", "3 1", "3 2"]


def test_serve_batch_works_on_a_function_too(instance: Instance, bring_up: Deploy) -> None:
    @serve.batch(max_batch_size=2, batch_wait_timeout_s=10)
    async def predict(numbers: list[int]) -> list[str]:
        return [f"{len(numbers)} {number}" for number in numbers]

    async def handler(request: Any) -> str:
        return await predict(int(request.query_params["n"]))

    assert get_numbered(instance, bring_up(handler), 2) == ["2 0", "2 1"]
