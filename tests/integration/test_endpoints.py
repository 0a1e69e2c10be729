"""Endpoints on a real cluster: routes, methods, the table of routes, and every wrong call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import serve
from tests.integration.conftest import Instance
from tests.integration.samples import QUICK

pytestmark = pytest.mark.slow


async def echo(request: Any) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.url.path,
        "params": request.path_params,
        "query": str(request.url.query),
    }


@pytest.fixture(scope="module")
def backends(shared_instance: Instance) -> Iterator[Instance]:
    """The module's instance with the backends `echo` and `other`."""
    serve.create_backend("echo", echo, config=QUICK)
    serve.create_backend("other", lambda: "other", config=QUICK)
    yield shared_instance


@pytest.fixture
def http(backends: Instance) -> Iterator[httpx.Client]:
    """A client; the endpoints that the test made are gone afterwards."""
    yield backends.http
    for name in serve.list_endpoints():
        serve.delete_endpoint(name)


@pytest.mark.parametrize(
    ("route", "path", "params"),
    [
        ("/plain", "/plain", {}),
        ("/{name}", "/joe", {"name": "joe"}),
        ("/{name}", "/j%20o%C3%A9", {"name": "j oé"}),
        ("/users/{id:int}", "/users/42", {"id": 42}),
        ("/at/{x:float}", "/at/1.5", {"x": 1.5}),
        ("/files/{rest:path}", "/files/a/b/c.txt", {"rest": "a/b/c.txt"}),
        ("/{a}/to/{b:int}/{c:path}", "/x/to/7/y/z", {"a": "x", "b": 7, "c": "y/z"}),
        ("/-/x", "/-/x", {}),
    ],
)
def test_a_route_hands_its_parameters_over_converted(
    http: httpx.Client, route: str, path: str, params: dict[str, Any]
) -> None:
    serve.create_endpoint("e", backend="echo", route=route)
    answer = http.get(path + "?q=1")
    assert answer.status_code == 200
    assert answer.json()["params"] == params
    assert answer.json()["query"] == "q=1"


def test_a_converter_refuses_what_is_not_its_own(http: httpx.Client) -> None:
    serve.create_endpoint("users", backend="echo", route="/users/{id:int}")
    serve.create_endpoint("at", backend="echo", route="/at/{x:float}")
    for path in ("/users/joe", "/users/1/2", "/at/x"):
        assert http.get(path).status_code == 404


def test_a_new_endpoint_is_there_at_once_on_connections_that_were_open_before(
    http: httpx.Client, backends: Instance
) -> None:
    clients = [httpx.Client(base_url=backends.url("")) for _ in range(5)]
    for client in clients:
        assert client.get("/-/healthz").status_code == 200
    serve.create_endpoint("e", backend="echo", route="/new")
    for client in clients:
        assert client.get("/new").status_code == 200
        assert client.post("/new").status_code == 405
    serve.delete_endpoint("e")
    for client in clients:
        assert client.get("/new").status_code == 404
        client.close()


def test_an_unknown_path_is_404_and_named(http: httpx.Client) -> None:
    response = http.get("/nowhere")
    assert response.status_code == 404
    assert response.text == (
        "Path /nowhere not found. Please ping http://.../-/routes for route table."
    )
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_wrong_method_is_405_and_the_right_ones_are_named(http: httpx.Client) -> None:
    serve.create_endpoint("e", backend="echo", route="/e")
    serve.create_endpoint("p", backend="echo", route="/p", methods=["post", "Put"])
    wrong = http.post("/e")
    assert (wrong.status_code, wrong.text) == (405, "Method Not Allowed")
    assert wrong.headers["allow"] == "GET, HEAD"
    assert http.head("/p").headers["allow"] == "POST, PUT"
    assert [http.request(m, "/p").json()["method"] for m in ("POST", "PUT")] == ["POST", "PUT"]


def test_head_comes_with_get_and_has_no_body(http: httpx.Client) -> None:
    serve.create_endpoint("e", backend="echo", route="/e")
    response = http.head("/e")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("route", "path", "target"), [("/e", "/e/", "/e"), ("/e/", "/e", "/e/")], ids=["off", "on"]
)
def test_the_other_spelling_of_a_slash_redirects_and_keeps_the_query(
    http: httpx.Client, route: str, path: str, target: str
) -> None:
    serve.create_endpoint("e", backend="echo", route=route, methods=["POST"])
    response = http.post(path + "?a=1&b=x%20y", content=b"body")
    assert response.status_code == 307
    assert response.headers["location"].removeprefix("http://127.0.0.1") == f"{target}?a=1&b=x%20y"
    followed = http.post(path + "?a=1&b=x%20y", content=b"body", follow_redirects=True)
    assert followed.json() == {
        "method": "POST",
        "path": target,
        "params": {},
        "query": "a=1&b=x%20y",
    }


def test_the_table_of_routes_lists_every_endpoint(http: httpx.Client) -> None:
    serve.create_endpoint("my_endpoint", backend="echo", route="/my_route")
    serve.create_endpoint("users", backend="echo", route="/u/{id:int}", methods=["put", "POST"])
    serve.create_endpoint("headless", backend="echo")
    response = http.get("/-/routes")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "/my_route": ["my_endpoint", ["GET"]],
        "/u/{id:int}": ["users", ["PUT", "POST"]],
        "headless": ["headless", ["GET"]],
    }


def test_the_ingress_says_that_it_is_healthy(http: httpx.Client) -> None:
    response = http.get("/-/healthz")
    assert (response.status_code, response.text) == (200, "success")


def test_endpoints_are_listed_with_all_that_they_are(http: httpx.Client) -> None:
    serve.create_endpoint("e", backend="echo", route="/e", methods=["get", "post"])
    serve.create_endpoint("headless", backend="other")
    serve.set_traffic("e", {"echo": 0.25, "other": 0.75})
    serve.shadow_traffic("e", "other", 0.5)
    assert serve.list_endpoints() == {
        "e": {
            "route": "/e",
            "methods": ["GET", "POST"],
            "traffic": {"echo": 0.25, "other": 0.75},
            "shadows": {"other": 0.5},
        },
        "headless": {"route": None, "methods": ["GET"], "traffic": {"other": 1.0}, "shadows": {}},
    }


def test_setting_the_traffic_ends_the_shadows(http: httpx.Client) -> None:
    serve.create_endpoint("e", backend="echo", route="/e")
    serve.shadow_traffic("e", "other", 1)
    serve.set_traffic("e", {"echo": 1})
    assert serve.list_endpoints()["e"]["shadows"] == {}


def test_an_endpoint_without_a_route_is_no_path(http: httpx.Client) -> None:
    serve.create_endpoint("x", backend="other")
    assert http.get("/x").status_code == 404
    assert serve.get_handle("x").call().result() == "other"


def test_a_name_and_a_route_that_look_alike_live_together(http: httpx.Client) -> None:
    serve.create_endpoint("x", backend="other")
    serve.create_endpoint("y", backend="echo", route="/x")
    assert http.get("/x").json()["path"] == "/x"
    assert set(http.get("/-/routes").json()) == {"x", "/x"}


def test_deleting_an_endpoint_leaves_its_backend_and_frees_name_and_route(
    http: httpx.Client,
) -> None:
    serve.create_endpoint("e", backend="echo", route="/e")
    serve.delete_endpoint("e")
    assert http.get("/e").status_code == 404
    assert set(serve.list_backends()) == {"echo", "other"}
    serve.create_endpoint("e", backend="other", route="/e")
    assert http.get("/e").text == "other"


def test_deleting_an_unknown_endpoint_is_no_error(backends: Instance) -> None:
    serve.delete_endpoint("nobody")


# Wrong calls.


@pytest.fixture(scope="module")
def taken(backends: Instance) -> Iterator[dict[str, dict[str, Any]]]:
    """All endpoints there are: `taken`, at `/taken`."""
    serve.create_endpoint("taken", backend="echo", route="/taken")
    yield serve.list_endpoints()
    serve.delete_endpoint("taken")


@pytest.mark.parametrize(
    ("kind", "words", "name", "options"),
    [
        (TypeError, "backend must be", "e", {}),
        (TypeError, "backend must be", "e", {"backend": 5}),
        (TypeError, "route must be a str that starts", "e", {"backend": "echo", "route": "e"}),
        (TypeError, "route must be a str that starts", "e", {"backend": "echo", "route": 5}),
        (TypeError, "methods must be a list of", "e", {"backend": "echo", "methods": "GET"}),
        (TypeError, "methods must be a list of", "e", {"backend": "echo", "methods": [1]}),
        (TypeError, "endpoint_name must be a str", 5, {"backend": "echo"}),
        (ValueError, "to a backend 'zz' that is not registered", "e", {"backend": "zz"}),
        (
            ValueError,
            "Route '/taken' is already registered",
            "e",
            {"backend": "echo", "route": "/taken"},
        ),
        (
            ValueError,
            "Endpoint 'taken' is already registered",
            "taken",
            {"backend": "echo", "route": "/e"},
        ),
        (
            ValueError,
            r"'/taken' is already registered to endpoint 'taken' with methods '\['GET'\]'.  To set",
            "taken",
            {"backend": "echo", "route": "/taken"},
        ),
        (ValueError, "is reserved", "e", {"backend": "echo", "route": "/-/routes"}),
        (ValueError, "unknown converter 'uid'", "e", {"backend": "echo", "route": "/{x:uid}"}),
    ],
)
def test_a_wrong_create_endpoint_raises_and_changes_nothing(
    backends: Instance,
    taken: dict[str, dict[str, Any]],
    kind: type[Exception],
    words: str,
    name: Any,
    options: dict[str, Any],
) -> None:
    with pytest.raises(kind, match=words) as caught:
        serve.create_endpoint(name, **options)
    assert type(caught.value) is kind
    assert serve.list_endpoints() == taken
    assert backends.http.get("/-/routes").json() == {"/taken": ["taken", ["GET"]]}


@pytest.mark.parametrize(
    ("kind", "words", "name", "weights"),
    [
        (ValueError, "'nobody' that is not registered", "nobody", {"echo": 1}),
        (ValueError, "backend 'zz' that is not registered", "taken", {"zz": 1}),
        (ValueError, "Weights cannot be negative", "taken", {"echo": 1.5, "other": -0.5}),
        (ValueError, "must sum to 1, currently they sum to 0.5", "taken", {"echo": 0.5}),
        (ValueError, "must sum to 1, currently they sum to 0", "taken", {}),
        (ValueError, "must sum to 1", "taken", {"echo": float("nan")}),
        (TypeError, "must be a dictionary", "taken", [("echo", 1)]),
        (TypeError, "must be a dictionary of backend tag", "taken", {"echo": "1"}),
    ],
)
def test_a_wrong_set_traffic_raises_and_changes_nothing(
    taken: dict[str, dict[str, Any]], kind: type[Exception], words: str, name: str, weights: Any
) -> None:
    with pytest.raises(kind, match=words) as caught:
        serve.set_traffic(name, weights)
    assert type(caught.value) is kind
    assert serve.list_endpoints() == taken


@pytest.mark.parametrize(
    ("kind", "words", "name", "tag", "proportion"),
    [
        (TypeError, "proportion must be a float from 0 to 1", "taken", "other", 1.5),
        (TypeError, "proportion must be a float from 0 to 1", "taken", "other", -0.1),
        (TypeError, "proportion must be a float from 0 to 1", "taken", "other", "1"),
        (TypeError, "proportion must be a float from 0 to 1", "taken", "other", None),
        (ValueError, "backend 'zz' that is not registered", "taken", "zz", 0.5),
        (ValueError, "endpoint 'nobody' that is not registered", "nobody", "other", 0.5),
    ],
)
def test_a_wrong_shadow_traffic_raises_and_changes_nothing(
    taken: dict[str, dict[str, Any]],
    kind: type[Exception],
    words: str,
    name: str,
    tag: str,
    proportion: Any,
) -> None:
    with pytest.raises(kind, match=words) as caught:
        serve.shadow_traffic(name, tag, proportion)
    assert type(caught.value) is kind
    assert serve.list_endpoints() == taken
