"""ASGI applications whose route functions are methods of a class."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse

import serve
from serve.asgi import bind_routes
from serve.definition import ASGI_APP


class Item(BaseModel):
    name: str
    price: float = 1.5


def give_unit() -> str:
    return "EUR"


def make_fastapi() -> tuple[Any, Any]:
    """An application and a bound instance of its class."""
    app = FastAPI()

    @app.get("/plain")
    def plain() -> str:
        return "no method"

    @serve.ingress(app)
    class Shop:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        @app.get("/hello/{name}", tags=["greeting"])
        def hello(self, name: str, times: int = 1) -> str:
            return f"{self.owner} greets {name} {times} times"

        @app.post("/items", status_code=201, response_model=Item)
        async def add(self, item: Item, unit: str = Depends(give_unit)) -> dict[str, Any]:
            return {"name": f"{self.owner}'s {item.name} {unit}", "price": item.price, "more": 1}

        @app.websocket("/ws")
        async def chat(self, socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text(self.owner)
            await socket.close()

        def helper(self) -> str:
            return "not a route"

    instance = Shop("Ann")
    bind_routes(app, instance)
    return app, instance


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
def shop() -> Any:
    return make_fastapi()[0]


async def test_a_fastapi_route_that_is_a_method_calls_the_instance(shop: Any) -> None:
    async with client_of(shop) as client:
        answer = await client.get("/hello/Bob", params={"times": 2})
    assert answer.json() == "Ann greets Bob 2 times"


async def test_a_fastapi_method_keeps_its_models_dependencies_and_status(shop: Any) -> None:
    async with client_of(shop) as client:
        answer = await client.post("/items", json={"name": "tea"})
    assert (answer.status_code, answer.json()) == (201, {"name": "Ann's tea EUR", "price": 1.5})


async def test_a_fastapi_methods_arguments_are_still_validated(shop: Any) -> None:
    async with client_of(shop) as client:
        assert (await client.get("/hello/Bob", params={"times": "x"})).status_code == 422
        assert (await client.post("/items", json={})).status_code == 422


async def test_a_route_that_is_no_method_stays_as_it_is(shop: Any) -> None:
    async with client_of(shop) as client:
        assert (await client.get("/plain")).json() == "no method"


def test_self_is_no_parameter_in_the_openapi_page(shop: Any) -> None:
    operation = shop.openapi()["paths"]["/hello/{name}"]["get"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["name", "times"]
    assert operation["tags"] == ["greeting"]


async def test_a_websocket_method_calls_the_instance(shop: Any) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b"", "state": {}}
    await shop(scope, receive, send)
    assert [message["type"] for message in sent] == [
        "websocket.accept", "websocket.send", "websocket.close",
    ]  # fmt: skip
    assert sent[1]["text"] == "Ann"


async def test_a_starlette_route_that_is_a_method_calls_the_instance() -> None:
    app = Starlette()

    @serve.ingress(app)
    class Greeter:
        def __init__(self, word: str) -> None:
            self.word = word

        async def hello(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{self.word} {request.path_params['name']}")

        app.add_route("/hello/{name}", hello, methods=["POST"])

    bind_routes(app, Greeter("hi"))
    async with client_of(app) as client:
        assert (await client.post("/hello/Bob")).text == "hi Bob"
        assert (await client.get("/hello/Bob")).status_code == 405


async def test_a_route_made_in_a_base_class_calls_the_instance_of_the_derived_one() -> None:
    app = FastAPI()

    class Base:
        word = "base"

        @app.get("/word")
        def say(self) -> str:
            return self.word

    @serve.ingress(app)
    class Derived(Base):
        word = "derived"

    bind_routes(app, Derived())
    async with client_of(app) as client:
        assert (await client.get("/word")).json() == "derived"


async def test_routes_keep_their_order() -> None:
    app = FastAPI()

    @serve.ingress(app)
    class Ordered:
        @app.get("/items/best")
        def best(self) -> str:
            return "best"

        @app.get("/items/{name}")
        def one(self, name: str) -> str:
            return name

    bind_routes(app, Ordered())
    async with client_of(app) as client:
        assert (await client.get("/items/best")).json() == "best"
        assert (await client.get("/items/other")).json() == "other"


def test_an_application_without_routes_of_its_own_is_left_alone() -> None:
    async def bare(scope: Any, receive: Any, send: Any) -> None: ...

    bind_routes(bare, object())


def test_the_decorator_remembers_the_application_and_returns_the_class() -> None:
    app = FastAPI()

    class Plain: ...

    assert serve.ingress(app)(Plain) is Plain
    assert getattr(Plain, ASGI_APP) is app


@pytest.mark.parametrize("thing", [lambda: 1, FastAPI(), "text"], ids=lambda v: type(v).__name__)
def test_the_decorator_is_refused_on_what_is_no_class(thing: Any) -> None:
    with pytest.raises(ValueError, match=r"@serve\.ingress must be used with a class\. Got"):
        serve.ingress(FastAPI())(thing)
