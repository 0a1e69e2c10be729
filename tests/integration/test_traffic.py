"""Shares of traffic, sticky keys and shadows, over HTTP and over handles."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

import serve
from observability.instrument.context import RequestContext, request_context
from tests.integration.conftest import Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records
from tests.integration.samples import QUICK

pytestmark = pytest.mark.slow


class Recorder:
    """Answers with its backend's tag and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, request: Any) -> str:
        self.seen.append(
            {
                "method": request.method,
                "query": dict(request.query_params),
                "body": await request.body(),
            }
        )
        return serve.get_current_backend_tag()

    @serve.expose
    async def other(self, request: Any) -> str:
        self.seen.append({"other": await request.body()})
        return "other"

    async def recall(self) -> list[dict[str, Any]]:
        seen, self.seen = self.seen, []
        return seen


class Failing(Recorder):
    async def __call__(self, request: Any) -> str:
        await super().__call__(request)
        raise ArithmeticError("a shadow that fails")


@pytest.fixture(scope="module")
def backends(shared_instance: Instance) -> Iterator[Instance]:
    """The module's instance with backends a, b, c (recorders) and f (one that fails)."""
    for tag, target in {"a": Recorder, "b": Recorder, "c": Recorder, "f": Failing}.items():
        serve.create_backend(tag, target, config=QUICK | {"max_concurrent_queries": 1000})
        serve.create_endpoint(f"only-{tag}", backend=tag)
    yield shared_instance


@pytest.fixture
def instance(backends: Instance) -> Iterator[Instance]:
    """The same, with endpoint e at /e and all of its traffic to a."""
    _mark.append(f"test {len(_mark)}")
    serve.create_endpoint("e", backend="a", route="/e", methods=["GET", "POST"])
    yield backends
    serve.delete_endpoint("e")
    for tag in "abcf":
        recall(tag)


_mark: list[str] = []
"""Of each test so far, the last one is this one's: copies of a test before may come late."""


def recall(tag: str) -> list[dict[str, Any]]:
    """What a recorder was asked since it was asked this, without what other tests asked."""
    answer: list[dict[str, Any]] = (
        serve.get_handle(f"only-{tag}").options(method_name="recall").call().result(60)
    )
    return [seen for seen in answer if seen.get("query", {}).get("m", _mark[-1]) == _mark[-1]]


def recall_some(tag: str, count: int) -> list[dict[str, Any]]:
    """The same, once it is so many: copies arrive after the answer."""
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(seen) < count and time.monotonic() < deadline:
        seen += recall(tag)
        time.sleep(0.02)
    return seen


Ask = Callable[[Instance, "str | None"], str]


def ask_http(instance: Instance, key: str | None) -> str:
    return instance.http.get(
        "/e", params={"m": _mark[-1]}, headers={"X-Serve-Shard-Key": key} if key else {}
    ).text


def ask_call(instance: Instance, key: str | None) -> str:
    answer: str = serve.get_handle("e").options(shard_key=key).call(m=_mark[-1]).result(60)
    return answer


def ask_remote(instance: Instance, key: str | None) -> str:
    answer: str = ray.get(serve.get_handle("e").options(shard_key=key).remote(m=_mark[-1]))
    return answer


WAYS = pytest.mark.parametrize("ask", [ask_http, ask_call, ask_remote])


@WAYS
def test_weights_share_the_requests_out(instance: Instance, ask: Ask) -> None:
    serve.set_traffic("e", {"a": 0.25, "b": 0.75, "c": 0})
    with ThreadPoolExecutor(8) as pool:
        counts = Counter(pool.map(lambda _: ask(instance, None), range(400)))
    assert counts["a"] + counts["b"] == 400
    assert 60 <= counts["a"] <= 140  # 4.6 standard deviations


@WAYS
def test_all_the_weight_is_all_the_traffic_at_once(instance: Instance, ask: Ask) -> None:
    for tag in ("b", "c", "a"):
        serve.set_traffic("e", {tag: 1})
        assert {ask(instance, None) for _ in range(10)} == {tag}


def test_equal_keys_reach_equal_backends_over_every_way(instance: Instance) -> None:
    serve.set_traffic("e", {"a": 0.3, "b": 0.4, "c": 0.3})
    chosen: dict[str, str] = {}
    for key in (f"user-{n}" for n in range(30)):
        answers = {ask(instance, key) for ask in (ask_http, ask_call, ask_remote, ask_http)}
        assert len(answers) == 1, key
        chosen[key] = answers.pop()
    assert set(chosen.values()) == {"a", "b", "c"}


@WAYS
def test_a_full_shadow_sees_every_request_and_its_failures_are_nobodys(
    instance: Instance, ask: Ask
) -> None:
    serve.shadow_traffic("e", "f", 1)
    serve.shadow_traffic("e", "b", 1)
    assert [ask(instance, None) for _ in range(5)] == ["a"] * 5
    assert len(recall_some("f", 5)) == 5
    assert len(recall_some("b", 5)) == 5
    assert len(recall("a")) == 5


@WAYS
def test_a_shadow_sees_its_proportion(instance: Instance, ask: Ask) -> None:
    serve.shadow_traffic("e", "b", 0.5)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(instance, None), range(200))) == {"a"}
    recall_some("a", 200)
    assert 65 <= len(recall_some("b", 65)) <= 135  # 5 standard deviations


@WAYS
def test_a_shadow_of_nothing_is_none(instance: Instance, ask: Ask) -> None:
    serve.shadow_traffic("e", "b", 1)
    serve.shadow_traffic("e", "b", 0)
    assert [ask(instance, None) for _ in range(5)] == ["a"] * 5
    assert recall("b") == []


def test_a_copy_of_a_request_is_the_whole_request(instance: Instance) -> None:
    serve.shadow_traffic("e", "b", 1)
    body = bytes(range(256)) * 4000
    assert instance.http.post("/e?x=1", content=body).text == "a"
    expected = [{"method": "POST", "query": {"x": "1"}, "body": body}]
    assert recall_some("b", 1) == recall("a") == expected


def test_a_copy_goes_to_the_method_that_was_asked_for(instance: Instance) -> None:
    serve.shadow_traffic("e", "b", 1)
    headers = {"X-Serve-Call-Method": "other"}
    assert instance.http.post("/e", content=b"1", headers=headers).text == "other"
    assert recall_some("b", 1) == [{"other": b"1"}]


def test_a_copy_goes_to_no_method_that_is_not_offered(instance: Instance) -> None:
    serve.shadow_traffic("e", "b", 1)
    headers = {"X-Serve-Call-Method": "hidden", "X-Request-ID": "not-offered-to-copies"}

    assert instance.http.post("/e", headers=headers).status_code == 404

    def ways() -> dict[str, int]:
        found = read_records(lambda r: r.get("request_id") == "not-offered-to-copies")
        return {record["way"]: record["status"] for record in found}

    wait_until(lambda: ways() == {"http": 404, "shadow": 404})
    assert recall("b") == []


def ways_of(endpoint: str, request_id: str) -> list[str]:
    """How a request came to an endpoint, as its access records say."""
    records = read_records(
        lambda r: r.get("request_id") == request_id and r.get("endpoint") == endpoint and "way" in r
    )
    return sorted(record["way"] for record in records)


async def pass_on_by_call(request: Any) -> Any:
    await request.body()
    return await serve.get_handle("only-b", sync=False).call(request)


async def pass_on_by_remote(request: Any) -> Any:
    await request.body()
    return await (await serve.get_handle("only-b", sync=False).remote(request))


PASS_ON = {"call": pass_on_by_call, "remote": pass_on_by_remote}


@pytest.mark.parametrize("way", PASS_ON)
def test_a_request_that_a_handler_passes_on_is_no_shadow(instance: Instance, way: str) -> None:
    tag, request_id = f"pass-{way}", f"passed-on-by-{way}"
    serve.create_backend(tag, PASS_ON[way], ray_actor_options={"num_cpus": 0}, config=QUICK)
    serve.set_traffic("e", {tag: 1})
    answer = instance.http.post("/e", content=b"1", headers={"X-Request-ID": request_id})
    assert answer.text == "b"
    assert [seen["body"] for seen in recall("b")] == [b"1"]
    assert wait_until(lambda: ways_of("only-b", request_id)) == [way]
    serve.set_traffic("e", {"a": 1})
    serve.delete_backend(tag, force=True)


@pytest.mark.parametrize("way", ["http", "call", "remote"])
def test_a_copy_is_recorded_as_a_shadow_whatever_way_it_came(instance: Instance, way: str) -> None:
    serve.shadow_traffic("e", "b", 1)
    request_id = f"copied-by-{way}"
    token = request_context.set(RequestContext(request_id, "test"))
    try:
        if way == "http":
            instance.http.get("/e", headers={"X-Request-ID": request_id})
        elif way == "call":
            serve.get_handle("e").call(1).result(60)
        else:
            ray.get(serve.get_handle("e").remote(1))
    finally:
        request_context.reset(token)
    recall_some("b", 1)
    assert wait_until(lambda: len(found := ways_of("e", request_id)) > 1 and found) == sorted(
        [way, "shadow"]
    )


def test_a_client_cannot_ask_for_copies(instance: Instance) -> None:
    assert instance.http.get("/e", headers={"X-Serve-Shadow": "b"}).text == "a"
    assert recall("a") and recall("b") == []


def test_an_asgi_application_can_be_a_shadow(instance: Instance) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def note(request: Request) -> PlainTextResponse:
        body = (await request.body()).decode()
        await serve.get_handle("only-c", sync=False).call(f"copied {body}")
        return PlainTextResponse("noted")

    serve.create_backend(
        "app", Starlette(routes=[Route("/", note, methods=["POST"])]), config=QUICK
    )
    serve.create_endpoint("notes", backend="app", route="/notes")
    serve.create_backend(
        "sink", Starlette(routes=[Route("/", note, methods=["POST"])]), config=QUICK
    )
    serve.shadow_traffic("notes", "sink", 1)
    assert instance.http.post("/notes/", content=b"me").text == "noted"
    assert [entry["body"] for entry in recall_some("c", 2)] == ["copied me"] * 2
    serve.delete_endpoint("notes")


def test_changing_the_traffic_while_requests_flow_fails_none(instance: Instance) -> None:
    is_over, seen = threading.Event(), set[str]()

    def flow(ask: Ask) -> list[str]:
        answers: list[str] = []
        while len(answers) < 150 or not is_over.is_set():
            answers.append(ask(instance, None))
            seen.add(answers[-1])
        return answers

    with ThreadPoolExecutor(5) as pool:
        flows = [pool.submit(flow, ask) for ask in (ask_http, ask_http, ask_call, ask_remote)]
        try:
            for weights in [{"b": 1}, {"a": 0.5, "c": 0.5}, {"c": 1}, {"a": 0.1, "b": 0.9}] * 2:
                serve.set_traffic("e", weights)
                seen.clear()
                wait_until(lambda weights=weights: weights.keys() <= seen)
        finally:
            is_over.set()
        answers = Counter(tag for flow in flows for tag in flow.result())
    assert set(answers) == {"a", "b", "c"} and answers.total() >= 600
