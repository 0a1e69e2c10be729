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


def test_requests_over_http_that_come_together_are_a_batch_answered_in_order(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(count_requests, **WAIT)
    assert get_numbered(instance, name, 4) == ["4 0", "4 1", "4 2", "4 3"]


def test_calls_of_both_kinds_of_handle_are_batched_alike(bring_up: Deploy) -> None:
    handle = serve.get_handle(bring_up(count_requests, **WAIT))
    assert ray.get([handle.remote(n=n) for n in range(4)]) == ["4 0", "4 1", "4 2", "4 3"]
    calls = [handle.call(n=n) for n in range(4)]
    assert [call.result() for call in calls] == ["4 0", "4 1", "4 2", "4 3"]


def test_without_a_wait_one_request_is_a_batch_of_one(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(count_requests, max_batch_size=4)
    assert get_numbered(instance, name, 1) == ["1 0"]


def test_without_a_size_a_marked_backend_gets_lists_of_one(
    instance: Instance, bring_up: Deploy
) -> None:
    assert set(get_numbered(instance, bring_up(count_requests), 3)) == {"1 0", "1 1", "1 2"}


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


def test_a_batch_that_is_not_full_goes_after_its_wait(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(count_requests, max_batch_size=4, batch_wait_timeout=0.5)
    wait_until(lambda: get_numbered(instance, name, 2) == ["2 0", "2 1"])  # within the wait


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


def test_the_size_of_batches_can_change_while_the_replica_runs(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(count_requests, max_batch_size=1, batch_wait_timeout=600.0)
    assert get_numbered(instance, name, 1) == ["1 0"]
    serve.update_backend_config(name, {"max_batch_size": 3})
    assert get_numbered(instance, name, 3) == ["3 0", "3 1", "3 2"]


def test_requests_for_different_methods_are_different_batches(bring_up: Deploy) -> None:
    class Two:
        @serve.accept_batch
        def double(self, requests: list[Any]) -> list[Any]:
            return [(len(requests), 2 * request.data) for request in requests]

        @serve.accept_batch
        def triple(self, requests: list[Any]) -> list[Any]:
            return [(len(requests), 3 * request.data) for request in requests]

        @serve.accept_batch
        def __call__(self, requests: list[Any]) -> list[Any]:
            return [None] * len(requests)

    handle = serve.get_handle(bring_up(Two, max_batch_size=2, batch_wait_timeout=600.0))
    calls = [
        handle.options(method_name=name).call(n) for n in (1, 2) for name in ("double", "triple")
    ]
    assert [call.result() for call in calls] == [(2, 2), (2, 3), (2, 4), (2, 6)]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1], "doesn't preserve batch size. The input has length 2 but .* length 1"),
        ({1: 1, 2: 2}, "expects an ordered iterable object but the replica returned a .*dict"),
        ({1, 2}, "expects an ordered iterable object"),
        ("ab", "expects an ordered iterable object"),
        (None, "expects an ordered iterable object"),
    ],
)
def test_a_batch_answered_wrongly_is_an_error_for_each_of_its_requests(
    bring_up: Deploy, answer: Any, words: str
) -> None:
    @serve.accept_batch
    def wrong(requests: list[Any]) -> Any:
        return answer

    handle = serve.get_handle(bring_up(wrong, max_batch_size=2, batch_wait_timeout=600.0))
    for call in [handle.call(), handle.call()]:
        with pytest.raises(serve.RayServeException, match=words):
            call.result()


def test_an_exception_goes_to_every_request_of_its_batch_and_the_next_one_runs(
    instance: Instance, bring_up: Deploy
) -> None:
    @serve.accept_batch
    def moody(requests: list[Any]) -> list[str]:
        if any(request.query_params["n"] == "1" for request in requests):
            raise ArithmeticError("bad mood")
        return ["good"] * len(requests)

    name = bring_up(moody, max_batch_size=2, batch_wait_timeout=60)
    assert get_numbered(instance, name, 2) == ["Internal Server Error"] * 2
    assert get_numbered(instance, name, 2, begin=2) == ["good"] * 2


def test_arrays_may_be_a_batchs_answer(bring_up: Deploy) -> None:
    import numpy as np

    @serve.accept_batch
    def square(requests: list[Any]) -> Any:
        return np.array([request.data for request in requests]) ** 2

    handle = serve.get_handle(bring_up(square, max_batch_size=3, batch_wait_timeout=600.0))
    calls = [handle.call(n) for n in (2, 3, 4)]
    assert [call.result() for call in calls] == [4, 9, 16]


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
