"""ASGI applications as backends: FastAPI and Starlette, bare and through `serve.ingress`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi import Request as FastAPIRequest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Route

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.samples import QUICK

pytestmark = pytest.mark.slow


class Item(BaseModel):
    name: str
    price: float


def make_fastapi() -> FastAPI:
    """An application that travels by value, as one of a user's script does."""
    app = FastAPI()

    @app.get("/")
    async def root() -> str:
        return "root"

    @app.get("/items/{number}")
    def read_item(number: int, q: str = "none") -> dict[str, Any]:
        if number == 13:
            raise HTTPException(404, "no such item")
        return {"number": number, "q": q}

    @app.post("/items", status_code=201)
    async def create_item(item: Item) -> Item:
        return item

    @app.get("/fail")
    async def fail() -> None:
        raise ArithmeticError("in the application")

    @app.get("/tag")
    def tag(request: FastAPIRequest) -> dict[str, str]:
        return {
            "backend": serve.get_current_backend_tag(),
            "id": request.headers["x-request-id"],
            "url": str(request.url_for("read_item", number=1)),
        }

    return app


@pytest.fixture(scope="module")
def fast(keep: Deploy) -> str:
    """A backend of the FastAPI application; its endpoint has no route."""
    return keep(make_fastapi())


@pytest.fixture
def name(instance: Instance, fast: str) -> str:
    """The endpoint at whose name the application is mounted."""
    serve.create_endpoint("fast", backend=fast, route="/fast")
    return "fast"


def test_a_bare_fastapi_application_is_a_backend(instance: Instance, name: str, fast: str) -> None:
    http = instance.http
    assert http.get(f"/{name}/").json() == "root"
    assert http.get(f"/{name}/items/5?q=x").json() == {"number": 5, "q": "x"}
    created = http.post(f"/{name}/items", json={"name": "a", "price": 1.5})
    assert (created.status_code, created.json()) == (201, {"name": "a", "price": 1.5})
    assert http.get(f"/{name}/items/x").status_code == 422
    assert http.get(f"/{name}/items/13").json() == {"detail": "no such item"}
    assert http.get(f"/{name}/nowhere").json() == {"detail": "Not Found"}
    assert http.delete(f"/{name}/items/5").headers["allow"] == "GET"
    failed = http.get(f"/{name}/fail")
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert failed.headers["x-serve-backend"] == fast


def test_an_application_knows_where_it_is_mounted(instance: Instance, name: str, fast: str) -> None:
    http = instance.http
    told = http.get(f"/{name}/tag", headers={"x-request-id": "app-1"}).json()
    assert told == {"backend": fast, "id": "app-1", "url": instance.url(f"/{name}/items/1")}
    assert f"/{name}" in str(http.get(f"/{name}/openapi.json").json()["servers"])
    assert f"/{name}/openapi.json" in http.get(f"/{name}/docs").text


def test_an_application_may_be_mounted_at_the_root_beside_other_routes(
    instance: Instance, fast: str
) -> None:
    serve.create_backend("f", lambda: "function", config=QUICK)
    serve.create_endpoint("app", backend=fast, route="/")
    serve.create_endpoint("f", backend="f", route="/f")
    http = instance.http
    assert http.get("/").json() == "root"
    assert http.get("/items/1").json()["number"] == 1
    assert http.get("/f").text == "function"
    assert http.get("/-/healthz").text == "success"
    assert http.get("/nowhere").json() == {"detail": "Not Found"}


def test_the_longest_mount_wins_and_a_mount_ends_at_a_slash(instance: Instance) -> None:
    def tell(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.scope['root_path']} {request.path_params['rest']}")

    app = Starlette(routes=[Route("/{rest:path}", tell)])
    serve.create_backend("app", app, config=QUICK)
    for name, route in {"a": "/a", "ab": "/a/b", "slash": "/c/"}.items():
        serve.create_endpoint(name, backend="app", route=route)
    found = {
        path: instance.http.get(path).text
        for path in ("/a/x", "/a/b/x", "/a/bc", "/a/b%20c/d", "/c/x")
    }
    assert found == {
        "/a/x": "/a x",
        "/a/b/x": "/a/b x",
        "/a/bc": "/a bc",
        "/a/b%20c/d": "/a b c/d",
        "/c/x": "/c x",
    }
    assert instance.http.get("/ab").status_code == 404


def make_starlette() -> Starlette:
    def tell_mount(request: Request) -> JSONResponse:
        return JSONResponse([request.scope["root_path"], request.path_params])

    def tell_method(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.method)

    return Starlette(
        routes=[
            Route("/", tell_method, methods=["GET", "PATCH", "DELETE"]),
            Route("/hello/{who}", tell_mount),
            Route("/old", lambda request: RedirectResponse(request.url_for("new"))),
            Route("/new", lambda request: PlainTextResponse("new"), name="new"),
        ]
    )


@pytest.fixture(scope="module")
def star(keep: Deploy) -> str:
    """A backend of a Starlette application, at `/star`."""
    return keep(make_starlette(), route="/star")


def test_a_mount_may_have_parameters(instance: Instance, star: str) -> None:
    serve.create_endpoint("app", backend=star, route="/tenants/{tenant:int}")
    answer = instance.http.get("/tenants/7/hello/joe")
    assert answer.json() == ["/tenants/7", {"tenant": 7, "who": "joe"}]


def test_an_application_gets_every_method_unless_the_endpoint_says_less(
    instance: Instance, star: str
) -> None:
    serve.create_endpoint("less", backend=star, route="/less", methods=["PATCH"])
    http = instance.http
    assert [http.request(m, "/star/").text for m in ("PATCH", "DELETE")] == ["PATCH", "DELETE"]
    assert http.patch("/less/").text == "PATCH"
    assert http.delete("/less/").headers["allow"] == "PATCH"


def test_a_redirect_of_the_application_stays_within_its_mount(
    instance: Instance, star: str
) -> None:
    assert instance.http.get("/star/old", follow_redirects=True).text == "new"
    assert instance.http.get("/star/new/", follow_redirects=True).text == "new"


def test_a_class_answers_through_a_fastapi_application(
    instance: Instance, bring_up: Deploy
) -> None:
    app = FastAPI()
    router = APIRouter(prefix="/more")

    def get_unit(unit: str = "piece") -> str:
        return unit

    @serve.ingress(app)
    class Shop:
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting
            self.count = 0

        @app.get("/hello/{name}", response_model=str, tags=["hi"])
        def hello(self, name: str, unit: str = Depends(get_unit)) -> str:
            self.count += 1
            return f"{self.greeting} {name} {unit}"

        @app.post("/items", status_code=201)
        async def create(self, item: Item) -> dict[str, Any]:
            self.count += 1
            return {"count": self.count, "total": item.price}

        @app.get("/plain")
        def plain(self) -> int:
            return self.count

        @app.get("/function")
        @staticmethod
        def function() -> str:
            return "no self"

        @router.get("/method")
        def method(self) -> str:
            return self.greeting

    @router.get("/deep")
    def deep() -> str:
        return "deep"

    app.include_router(router)
    name, http = bring_up(Shop, "good day"), instance.http
    assert http.get(f"/{name}/hello/joe?unit=kg").json() == "good day joe kg"
    created = http.post(f"/{name}/items", json={"name": "a", "price": 2})
    assert (created.status_code, created.json()) == (201, {"count": 2, "total": 2.0})
    assert http.get(f"/{name}/plain").json() == 2
    assert http.get(f"/{name}/more/deep").json() == "deep"
    assert http.get(f"/{name}/more/method").json() == "good day"
    assert http.get(f"/{name}/function").json() == "no self"
    assert http.post(f"/{name}/items", json={"name": "a"}).status_code == 422
    parameters = http.get(f"/{name}/openapi.json").json()["paths"]["/hello/{name}"]["get"]
    assert [p["name"] for p in parameters["parameters"]] == ["name", "unit"]
    assert parameters["tags"] == ["hi"]


def test_the_methods_of_such_a_class_can_be_called_by_handles(bring_up: Deploy) -> None:
    app = FastAPI()

    @serve.ingress(app)
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def reconfigure(self, user_config: int) -> None:
            self.count = user_config

        @app.get("/")
        def read(self) -> int:
            return self.count

        def add(self, request: Any) -> int:
            self.count += request.data
            return self.count

    handle = serve.get_handle(bring_up(Counter, user_config=5))
    assert handle.options(method_name="add").call(3).result() == 8
    with pytest.raises(serve.RayServeException, match="available methods are"):
        handle.call().result()


def test_a_class_answers_through_a_starlette_application(
    instance: Instance, bring_up: Deploy
) -> None:
    class Greeter:
        def __init__(self) -> None:
            self.word = "hi"

        async def greet(self, request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"{self.word} {request.path_params['name']}")

    app = Starlette(routes=[Route("/greet/{name}", Greeter.greet)])
    name = bring_up(serve.ingress(app)(Greeter))
    assert instance.http.get(f"/{name}/greet/joe").text == "hi joe"


def test_any_object_that_speaks_asgi_is_a_backend(instance: Instance, bring_up: Deploy) -> None:
    class Raw:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"  # so it knows no lifespan, and raises at it
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})

    name = bring_up(Raw())
    assert instance.http.get(f"/{name}/x/y").text == f"/{name}/x/y"


def test_ingress_on_something_else_than_a_class_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"@serve.ingress must be used with a class"):
        serve.ingress(FastAPI())(lambda: None)  # type: ignore[arg-type]


# Lifespan.


def make_living(note: str, fails: bool = False) -> Starlette:
    """An application that notes its start-up and shutdown in a file."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        if fails:
            raise LookupError("no database")
        Path(note).write_text(f"started in {serve.get_current_backend_tag()}")
        yield {"pool": f"pool of {os.getpid()}"}
        Path(note).write_text("ended")

    async def tell(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.state.pool == f'pool of {os.getpid()}'}")

    return Starlette(routes=[Route("/", tell)], lifespan=lifespan)


def test_an_applications_lifespan_is_its_replicas(
    instance: Instance, bring_up: Deploy, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    name = bring_up(make_living(str(note)))
    assert note.read_text() == f"started in {name}"
    assert instance.http.get(f"/{name}/").text == "True"
    serve.delete_endpoint(name)
    serve.delete_backend(name)
    assert note.read_text() == "ended"


def test_a_start_up_that_fails_is_an_error_with_its_traceback(
    instance: Instance, tmp_path: Path
) -> None:
    with pytest.raises(serve.BackendStartError, match="LookupError: no database"):
        serve.create_backend("b", make_living(str(tmp_path / "note"), fails=True))
    assert "b" not in serve.list_backends()
