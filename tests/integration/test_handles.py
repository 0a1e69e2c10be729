"""Handles: getting one, its options, what the handler sees, where a handle can go, `remote()`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from ray.exceptions import RayTaskError

import serve
from observability.instrument.context import request_context
from serve.handle.handle import RayServeHandle, RayServeSyncHandle
from tests.integration.conftest import Deploy, Instance
from tests.integration.samples import Busy
from tests.integration.stream import Stream


class Mishap(Exception):
    """An exception of the user's own."""


class Toolbox:
    async def __call__(self, request: Any) -> Any:
        return request.data

    async def facts(self, request: Any) -> dict[str, Any]:
        return {
            "type": type(request).__name__,
            "method": request.method,
            "headers": dict(request.headers),
            "query": dict(request.query_params),
        }

    async def body(self, request: Any) -> Any:
        return await request.body()

    async def json(self, request: Any) -> Any:
        return await request.json()

    async def form(self, request: Any) -> Any:
        return await request.form()

    async def colors(self, request: Any) -> Any:
        return request.query_params.getlist("color")

    async def fail(self, request: Any) -> None:
        raise Mishap("of the user's own", 7)

    def blocking(self, request: Any) -> Any:
        return request.data

    def fail_blocking(self, request: Any) -> None:
        raise ValueError("blocking mishap")

    async def _hidden(self, request: Any) -> str:
        return "never"


@pytest.fixture(scope="module")
def toolbox(shared_instance: Instance) -> Iterator[str]:
    """An endpoint whose backend has a method for each question."""
    serve.create_backend("toolbox", Toolbox, ray_actor_options={"num_cpus": 0})
    serve.create_endpoint("toolbox", backend="toolbox")
    yield "toolbox"


@pytest.fixture(scope="module")
def one(keep: Deploy) -> str:
    return keep(name_one)


@pytest.fixture(scope="module")
def two(keep: Deploy) -> str:
    return keep(name_two)


# Getting one.


def test_a_handle_to_an_unknown_endpoint_is_a_key_error_that_names_those_there_are(
    toolbox: str,
) -> None:
    with pytest.raises(KeyError, match=r"'zzz' does not exist.*'toolbox'.*create_endpoint"):
        serve.get_handle("zzz")


def test_remote_on_an_endpoint_that_never_comes_fails_after_five_seconds(toolbox: str) -> None:
    handle = serve.get_handle("never", missing_ok=True)
    started = time.monotonic()
    with pytest.raises(
        serve.RayServeException, match=r"Endpoint never doesn't exist after 5s timeout"
    ):
        handle.remote()
    assert time.monotonic() - started > 4.5


def test_remote_waits_for_an_endpoint_that_appears_meanwhile(
    toolbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.handle.actors.UNKNOWN_ENDPOINT_S", 60.0)
    handle = serve.get_handle("late_remote", missing_ok=True)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: ray.get(handle.remote("here")))
        time.sleep(0.3)
        serve.create_endpoint("late_remote", backend="toolbox")
        assert answer.result(60) == "here"
    serve.delete_endpoint("late_remote")


def test_the_kind_of_handle_follows_sync(toolbox: str) -> None:
    assert type(serve.get_handle(toolbox)) is RayServeSyncHandle
    assert type(serve.get_handle(toolbox, sync=False)) is RayServeHandle


def test_a_handle_shows_its_endpoint(toolbox: str) -> None:
    assert repr(serve.get_handle(toolbox)) == "RayServeSyncHandle(endpoint='toolbox')"
    assert repr(serve.get_handle(toolbox, sync=False)) == "RayServeHandle(endpoint='toolbox')"


# remote().


def test_ray_get_gives_the_answer_of_remote(toolbox: str) -> None:
    reference = serve.get_handle(toolbox).remote({"a": 1})
    assert isinstance(reference, ray.ObjectRef)
    assert ray.get(reference) == {"a": 1}


async def test_the_async_handle_is_awaited_for_a_reference_and_that_for_the_answer(
    toolbox: str,
) -> None:
    reference = await serve.get_handle(toolbox, sync=False).remote("x")
    assert isinstance(reference, ray.ObjectRef)
    assert await reference == "x"


def test_remote_answers_many_calls_in_flight(toolbox: str) -> None:
    handle = serve.get_handle(toolbox)
    assert ray.get([handle.remote(i) for i in range(300)]) == list(range(300))


def test_remote_is_safe_from_several_threads(toolbox: str) -> None:
    handle = serve.get_handle(toolbox)

    def ask(number: int) -> list[int]:
        return ray.get([handle.remote(number * 100 + i) for i in range(20)])

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert answers == [[n * 100 + i for i in range(20)] for n in range(6)]


def test_an_object_ref_as_data_is_resolved_by_remote(toolbox: str) -> None:
    assert ray.get(serve.get_handle(toolbox).remote(ray.put([1, 2]))) == [1, 2]


def test_an_answer_of_remote_feeds_the_next_remote(toolbox: str) -> None:
    handle = serve.get_handle(toolbox)
    assert ray.get(handle.remote(handle.remote("through both"))) == "through both"


def test_an_array_goes_through_remote(toolbox: str) -> None:
    array = np.arange(1_000_000)
    assert (ray.get(serve.get_handle(toolbox).remote(array)) == array).all()


def test_a_blocking_method_answers_remote(toolbox: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name="blocking")
    assert ray.get(handle.remote(3)) == 3


def test_a_users_exception_of_remote_is_a_ray_task_error_and_its_own_type(toolbox: str) -> None:
    with pytest.raises(Mishap, match="of the user's own") as caught:
        ray.get(serve.get_handle(toolbox).options(method_name="fail").remote())
    assert isinstance(caught.value, RayTaskError)


def test_a_missing_method_of_remote_names_the_methods_there_are(toolbox: str) -> None:
    with pytest.raises(serve.RayServeException, match=r"method nope .*\['__call__', .*'facts'"):
        ray.get(serve.get_handle(toolbox).options(method_name="nope").remote())


def test_a_method_that_begins_with_an_underscore_is_none(toolbox: str) -> None:
    with pytest.raises(serve.RayServeException, match="method _hidden"):
        ray.get(serve.get_handle(toolbox).options(method_name="_hidden").remote())


def test_remote_skips_full_replicas_and_waits_when_all_are(held_pair: str, tmp_path: Path) -> None:
    handle = serve.get_handle(held_pair)
    let_go = tmp_path / "go"
    slow = handle.remote(str(let_go))
    quick = [handle.remote() for _ in range(5)]
    pids = set(ray.get(quick, timeout=60))  # while the slow one is held
    assert len(pids) == 1
    let_go.touch()
    assert ray.get(slow) not in pids


def test_remote_goes_round_the_replicas(held_pair: str) -> None:
    handle = serve.get_handle(held_pair)
    pids = [ray.get(handle.remote()) for _ in range(6)]
    assert pids[0::2] == [pids[0]] * 3
    assert pids[1::2] == [pids[1]] * 3
    assert pids[0] != pids[1]


def test_remote_holds_max_concurrent_queries(deploy: Deploy) -> None:
    handle = serve.get_handle(deploy(Busy, 3, max_concurrent_queries=3))
    ray.get([handle.remote() for _ in range(12)])
    assert ray.get(handle.options(method_name="most").remote()) == 3


def test_remote_gives_up_after_the_queue_timeout(held_single: str, tmp_path: Path) -> None:
    serve.update_backend_config(held_single, {"queue_timeout_s": 0.3})
    handle = serve.get_handle(held_single)
    let_go = tmp_path / "go"
    first = handle.remote(str(let_go))
    said = rf"'{held_single}'.*0\.3 s \(queue_timeout_s\)"
    with pytest.raises(serve.QueueTimeoutError, match=said):
        handle.remote()
    let_go.touch()
    ray.get(first, timeout=60)


# What the handler sees.


def test_the_handler_sees_a_serve_request_with_the_defaults(toolbox: str) -> None:
    assert ray.get(serve.get_handle(toolbox).options(method_name="facts").remote()) == {
        "type": "ServeRequest",
        "method": "GET",
        "headers": {"X-Serve-Call-Method": "facts", "X-Serve-Shard-Key": None},
        "query": {},
    }


def test_http_method_and_http_headers_reach_the_handler(toolbox: str) -> None:
    handle = serve.get_handle(toolbox).options(
        method_name="facts", http_method="PUT", http_headers={"A": "b"}, shard_key="k"
    )
    facts = ray.get(handle.remote())
    assert facts["method"] == "PUT"
    assert facts["headers"] == {"X-Serve-Call-Method": "facts", "X-Serve-Shard-Key": "k", "A": "b"}


def test_keyword_arguments_keep_their_python_types(toolbox: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name="facts")
    sent = {"count": 1, "share": 0.5, "flag": True, "nothing": None, "many": [1, "2"]}
    assert ray.get(handle.remote(**sent))["query"] == sent


def test_getlist_gives_all_values_of_a_key(toolbox: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name="colors")
    assert ray.get(handle.remote(color=["red", "blue"])) == ["red", "blue"]
    assert ray.get(handle.remote(color="red")) == ["red"]
    assert ray.get(handle.remote()) == []


@pytest.mark.parametrize("sent", ["text", b"bytes", 7, None, {"a": 1}, (1, 2)])
def test_body_is_the_object_itself(toolbox: str, sent: object) -> None:
    assert ray.get(serve.get_handle(toolbox).options(method_name="body").remote(sent)) == sent


@pytest.mark.parametrize("member", ["json", "form"])
def test_json_and_form_are_the_dictionary_that_was_sent(toolbox: str, member: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name=member)
    assert ray.get(handle.remote({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("member", ["json", "form"])
def test_json_and_form_refuse_what_is_no_dictionary(toolbox: str, member: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name=member)
    with pytest.raises(
        serve.RayServeException, match=r"not a dictionary. It is <class 'list'>.*request.body\(\)"
    ):
        ray.get(handle.remote([1]))


# Options.


def test_options_leave_the_original_as_it_was(toolbox: str) -> None:
    handle = serve.get_handle(toolbox)
    changed = handle.options(method_name="facts")
    assert ray.get(handle.remote("echo")) == "echo"
    assert ray.get(changed.remote())["type"] == "ServeRequest"


def test_options_not_given_are_inherited_and_those_given_override(toolbox: str) -> None:
    first = serve.get_handle(toolbox).options(method_name="facts", http_method="PUT")
    second = first.options(http_headers={"A": "b"}).options(http_method="POST")
    facts = ray.get(second.remote())
    assert facts["method"] == "POST"
    assert facts["headers"]["A"] == "b"
    assert ray.get(first.remote())["method"] == "PUT"


def test_a_shard_key_can_be_taken_back(toolbox: str) -> None:
    handle = serve.get_handle(toolbox).options(method_name="facts", shard_key="k")
    facts = ray.get(handle.options(shard_key=None).remote())
    assert facts["headers"]["X-Serve-Shard-Key"] is None


def test_options_keep_the_kind_of_handle(toolbox: str) -> None:
    handle = serve.get_handle(toolbox, sync=False)
    assert type(handle.options(method_name="facts")) is RayServeHandle


def test_an_unknown_option_is_a_type_error(toolbox: str) -> None:
    with pytest.raises(TypeError, match="colour"):
        serve.get_handle(toolbox).options(colour="red")  # type: ignore[call-arg]


def test_equal_shard_keys_reach_the_same_backend(one: str, two: str) -> None:
    serve.set_traffic(one, {one: 0.5, two: 0.5})
    handle = serve.get_handle(one)
    by_key = {
        key: {ray.get(handle.options(shard_key=key).remote()) for _ in range(3)}
        | {handle.options(shard_key=key).call().result(60)}
        for key in map(str, range(12))
    }
    assert all(len(names) == 1 for names in by_key.values())
    assert {min(names) for names in by_key.values()} == {"one", "two"}
    serve.set_traffic(one, {one: 1.0})


def name_one() -> str:
    return "one"


def name_two() -> str:
    return "two"


# Where handles go.


def test_a_handle_pickles_into_a_task(toolbox: str) -> None:
    @ray.remote(num_cpus=0)
    def ask(handle: RayServeSyncHandle) -> tuple[Any, Any]:
        return ray.get(handle.remote("remote")), handle.call("call").result(60)

    assert ray.get(ask.remote(serve.get_handle(toolbox))) == ("remote", "call")


def test_a_pickled_handle_keeps_its_options(toolbox: str) -> None:
    @ray.remote(num_cpus=0)
    def ask(handle: RayServeSyncHandle) -> Any:
        return ray.get(handle.remote())["method"]

    handle = serve.get_handle(toolbox).options(method_name="facts", http_method="PATCH")
    assert ray.get(ask.remote(handle)) == "PATCH"


def test_an_async_handle_pickles_into_an_async_actor(toolbox: str) -> None:
    @ray.remote(num_cpus=0)
    class Asker:
        def __init__(self, handle: RayServeHandle) -> None:
            self._handle = handle

        async def ask(self) -> tuple[Any, Any]:
            reference = await self._handle.remote("remote")
            return await reference, await self._handle.call("call")

    asker = Asker.remote(serve.get_handle(toolbox, sync=False))
    assert ray.get(asker.ask.remote()) == ("remote", "call")
    ray.kill(asker)


class Inner:
    async def __call__(self, request: Any) -> dict[str, Any]:
        context = request_context.get()
        assert context is not None
        return {"data": request.data, "request_id": context.request_id}

    async def fail(self, request: Any) -> None:
        raise Mishap("inner")


class AsyncOuter:
    """Calls another backend from `async` code."""

    def __init__(self, inner: str) -> None:
        self._handle = serve.get_handle(inner, sync=False)

    async def __call__(self, request: Any) -> Any:
        return await self._handle.call("async")

    @serve.expose
    async def by_remote(self, request: Any) -> Any:
        return await (await self._handle.remote("async"))

    async def failing(self, request: Any) -> str:
        try:
            await self._handle.options(method_name="fail").call()
        except Mishap as error:
            return f"caught {error.args[0]}"
        return "nothing raised"


class BlockingOuter:
    """Calls another backend from blocking code, with a handle that it was given."""

    def __init__(self, handle: RayServeSyncHandle) -> None:
        self._handle = handle

    def __call__(self, request: Any) -> Any:
        return self._handle.call("blocking").result(60)

    @serve.expose
    def by_remote(self, request: Any) -> Any:
        return ray.get(self._handle.remote("blocking"))


@pytest.fixture(scope="module")
def composition(shared_instance: Instance) -> Iterator[None]:
    """`/async` and `/blocking`, which both call `inner`."""
    options = {"num_cpus": 0}
    serve.create_backend("inner", Inner, ray_actor_options=options)
    serve.create_endpoint("inner", backend="inner")
    serve.create_backend("async_outer", AsyncOuter, "inner", ray_actor_options=options)
    serve.create_endpoint("async_outer", backend="async_outer", route="/async")
    handle = serve.get_handle("inner")
    serve.create_backend("blocking_outer", BlockingOuter, handle, ray_actor_options=options)
    serve.create_endpoint("blocking_outer", backend="blocking_outer", route="/blocking")
    yield


@pytest.mark.parametrize("kind", ["async", "blocking"])
@pytest.mark.parametrize("method", ["__call__", "by_remote"])
def test_a_backend_calls_another_and_the_request_id_goes_with_it(
    composition: None, shared_instance: Instance, kind: str, method: str
) -> None:
    headers = {"X-Request-ID": f"trail-{kind}", "X-Serve-Call-Method": method}
    answer = shared_instance.http.get(f"/{kind}", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"data": kind, "request_id": f"trail-{kind}"}


def test_the_request_id_goes_through_two_handle_calls(composition: None) -> None:
    answers = [serve.get_handle("async_outer").call().result(60) for _ in range(2)]
    assert len({answer["request_id"] for answer in answers}) == 2
    assert all(len(answer["request_id"]) == 32 for answer in answers)


def test_a_backend_catches_the_exception_of_another_by_its_type(composition: None) -> None:
    handle = serve.get_handle("async_outer").options(method_name="failing")
    assert handle.call().result(60) == "caught inner"


# Changes.


def test_a_change_of_the_traffic_is_followed_by_the_next_call(one: str, two: str) -> None:
    handle = serve.get_handle(one)
    seen = []
    for tag in (two, one, two, one):
        serve.set_traffic(one, {tag: 1.0})
        seen.append((ray.get(handle.remote()), handle.call().result(60)))
    assert seen == [("two", "two"), ("one", "one"), ("two", "two"), ("one", "one")]


def test_a_deleted_endpoint_is_missing_to_the_next_get_handle(one: str) -> None:
    serve.create_endpoint("deleted", backend=one)
    assert serve.get_handle("deleted").call().result(60) == "one"
    serve.delete_endpoint("deleted")
    with pytest.raises(KeyError):
        serve.get_handle("deleted")


def test_scaling_down_loses_no_call_of_a_stream_and_no_request_over_http(
    deploy: Deploy, shared_instance: Instance
) -> None:
    name = deploy(answer, num_replicas=3, route="/scaled", **QUICK_STOP)
    handle = serve.get_handle(name)
    with httpx.Client(base_url=str(shared_instance.http.base_url), timeout=20) as http:
        streams = [
            Stream(lambda: ray.get(handle.remote())),
            Stream(lambda: handle.call().result(60)),
            Stream(lambda: http.get("/scaled").raise_for_status()),
        ]
        with streams[0], streams[1], streams[2]:
            serve.update_backend_config(name, {"num_replicas": 1})
            for stream in streams:
                stream.wait_for_more(10)
    assert [stream.errors for stream in streams] == [[], [], []]


async def answer() -> str:
    await asyncio.sleep(0.02)
    return "answer"


QUICK_STOP = {"experimental_graceful_shutdown_wait_loop_s": 0.2}
