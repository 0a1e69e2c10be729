"""Where code runs: what a replica knows of itself, and the names that answers carry."""

from __future__ import annotations

import re
import sys
import threading
from typing import Any

import httpx
import pytest

import serve
from serve.ids import is_request_id
from tests.integration.conftest import Deploy, Instance

pytestmark = pytest.mark.slow

TAG = re.compile(r"[a-z0-9_]+#[a-zA-Z]{6}")


class Curious:
    def __init__(self) -> None:
        self.built_in = serve.get_replica_context()
        self.tags = serve.get_current_backend_tag(), serve.get_current_replica_tag()

    def __call__(self, request: Any) -> Any:
        ask = request.query_params.get("ask", "tags")
        if ask == "backends":
            return list(serve.list_backends())
        if ask == "id":
            return request.headers["x-request-id"]
        if ask == "failure":
            raise ArithmeticError
        return [*self.tags, self.built_in == serve.get_replica_context()]

    def tell_id(self) -> str:
        from observability.instrument.context import (
            request_context,  # its variable can't be pickled
        )

        context = request_context.get()
        return "none" if context is None else context.request_id

    async def on_the_loop(self) -> str:
        return serve.get_current_replica_tag()

    def in_a_thread(self) -> str:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(serve.get_current_replica_tag()))
        thread.start()
        thread.join()
        return found[0]


@pytest.fixture(scope="module")
def curious(keep: Deploy) -> str:
    """A backend of one replica, at `/curious`."""
    return keep(Curious, route="/curious")


def test_a_backend_knows_its_tags_in_the_constructor_the_handler_and_its_threads(
    instance: Instance, curious: str
) -> None:
    backend, replica, is_same = instance.http.get("/curious").json()
    assert backend == curious
    assert TAG.fullmatch(replica)
    assert is_same
    for method in ("on_the_loop", "in_a_thread"):
        assert serve.get_handle(curious).options(method_name=method).call().result() == replica


def test_all_that_serve_offers_is_loaded_before_the_first_request(
    instance: Instance, bring_up: Deploy
) -> None:
    def look() -> str:  # names nothing of `serve`, so that it can't be what loads it
        return str("serve.public" in sys.modules)

    assert instance.http.get(f"/{bring_up(look)}").text == "True"


def test_each_replica_has_a_tag_of_its_own_and_says_so_in_its_answers(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(lambda: serve.get_current_replica_tag(), num_replicas=2)
    answers = [instance.http.get(f"/{name}") for _ in range(20)]
    tags = {answer.text for answer in answers}
    assert len(tags) == 2 and all(TAG.fullmatch(tag) for tag in tags)
    assert all(answer.headers["x-serve-replica"] == answer.text for answer in answers)
    assert {answer.headers["x-serve-backend"] for answer in answers} == {name}


@pytest.mark.parametrize(
    "ask",
    [
        serve.get_replica_context,
        serve.get_current_backend_tag,
        serve.get_current_replica_tag,
    ],
)
def test_outside_a_backend_there_is_no_context(ask: Any) -> None:
    with pytest.raises(serve.RayServeException, match="only be called from within a Ray Serve"):
        ask()


def test_a_backend_may_use_the_instance_that_owns_it(instance: Instance, curious: str) -> None:
    assert instance.http.get("/curious?ask=backends").json() == [curious]


def test_a_request_id_is_taken_over_when_it_is_well_formed(
    instance: Instance, curious: str
) -> None:
    for wanted in ("my-id_1.2:3", "a" * 128):
        answer = instance.http.get("/curious?ask=id", headers={"x-request-id": wanted})
        assert (answer.text, answer.headers["x-request-id"]) == (wanted, wanted)


@pytest.mark.parametrize("bad", ["", "a b", "a" * 129, "a/b", "é"])
def test_a_malformed_or_missing_request_id_is_replaced(shared_instance: Instance, bad: str) -> None:
    answers = [
        shared_instance.http.get("/x", headers={"x-request-id": bad.encode()} if bad else {})
        for _ in range(2)
    ]
    made = [answer.headers["x-request-id"] for answer in answers]
    assert all(is_request_id(one) and one != bad for one in made)
    assert made[0] != made[1]


def test_the_ingress_own_answers_carry_the_request_id(instance: Instance, curious: str) -> None:
    http = instance.http
    asked = {"x-request-id": "trail-1"}
    answers: dict[int, httpx.Response] = {
        404: http.get("/nowhere", headers=asked),
        405: http.post("/curious", headers=asked),
        307: http.get("/curious/", headers=asked),
    }
    for status, answer in answers.items():
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "trail-1")


def test_a_failed_request_carries_its_names_too(instance: Instance, curious: str) -> None:
    answer = instance.http.get("/curious?ask=failure", headers={"x-request-id": "trail-2"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "trail-2"
    assert answer.headers["x-serve-backend"] == curious
    assert TAG.fullmatch(answer.headers["x-serve-replica"])


def test_a_request_id_crosses_a_handle_call(
    instance: Instance, bring_up: Deploy, curious: str
) -> None:
    class Caller:
        def __init__(self, endpoint: str) -> None:
            handle = serve.get_handle(endpoint, sync=False)
            self.handle = handle.options(method_name="tell_id")

        async def __call__(self, request: Any) -> list[str]:
            return [await self.handle.call(), await (await self.handle.remote())]

    caller = bring_up(Caller, curious)
    answer = instance.http.get(f"/{caller}", headers={"x-request-id": "trail-3"})
    assert answer.json() == ["trail-3", "trail-3"]
