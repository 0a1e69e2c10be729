"""What kind of backend each thing makes, and how it travels."""

from __future__ import annotations

import functools
import importlib
import threading
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette

import serve
from serve.config import Traits
from serve.definition import Definition, import_path, inspect_target, is_asgi_app, takes_request
from serve.outline import are_same, outline


def blocking(request: Any) -> str:
    return "blocking"


async def asynchronous(request: Any) -> str:
    return "async"


@serve.accept_batch
def batched(requests: list[Any]) -> list[Any]:
    return requests


class Blocking:
    def __call__(self, request: Any) -> str:
        return "blocking"


class Asynchronous:
    async def __call__(self, request: Any) -> str:
        return "async"


@serve.accept_batch
class Batched(Blocking):
    pass


class BatchedCall:
    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[Any]:
        return requests


class OnlyMethods:
    def other(self, request: Any) -> None: ...


@serve.ingress(FastAPI())
class Application:
    pass


class BareASGI:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


_lambda = lambda request: 1  # noqa: E731 - a lambda is what is tested


@pytest.mark.parametrize(
    ("target", "traits"),
    [
        (blocking, Traits("blocking")),
        (asynchronous, Traits("asynchronous", is_blocking=False)),
        (_lambda, Traits("<lambda>")),
        (batched, Traits("batched", accepts_batches=True)),
        (Blocking, Traits("Blocking", is_function=False)),
        (Asynchronous, Traits("Asynchronous", is_function=False, is_blocking=False)),
        (Batched, Traits("Batched", is_function=False, accepts_batches=True)),
        (BatchedCall, Traits("BatchedCall", is_function=False, accepts_batches=True)),
        (OnlyMethods, Traits("OnlyMethods", is_function=False)),
        (
            Application,
            Traits("Application", is_function=False, is_blocking=False, is_asgi=True),
        ),
        (FastAPI(), Traits("FastAPI", is_blocking=False, is_asgi=True)),
        (Starlette(), Traits("Starlette", is_blocking=False, is_asgi=True)),
        (BareASGI(), Traits("BareASGI", is_blocking=False, is_asgi=True)),
        (
            "module.attribute",
            Traits("module.attribute", is_function=False, is_blocking=False, accepts_batches=True),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Traits) else type(value).__name__,
)
def test_each_kind_of_target_is_known_for_what_it_is(target: Any, traits: Traits) -> None:
    assert inspect_target(target, ()) == traits


@pytest.mark.parametrize(
    "target",
    [Blocking(), Asynchronous(), functools.partial(blocking), 1, None, [blocking]],
    ids=lambda value: type(value).__name__,
)
def test_a_callable_instance_and_what_cannot_be_called_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match=r"Backend must be a function, a class.*not an instance"):
        inspect_target(target, ())


@pytest.mark.parametrize("target", [blocking, FastAPI()], ids=["function", "application"])
def test_constructor_arguments_need_a_constructor(target: Any) -> None:
    with pytest.raises(ValueError, match=r"init_args not supported for function backend\."):
        inspect_target(target, (1,))


def test_constructor_arguments_for_a_class_or_an_import_path_are_taken() -> None:
    assert inspect_target(Blocking, (1,)).name == "Blocking"
    assert inspect_target("module.Class", (1,)).name == "module.Class"


def test_an_object_with_three_async_arguments_is_an_application_and_one_with_one_is_not() -> None:
    assert is_asgi_app(BareASGI())
    assert not is_asgi_app(Asynchronous())


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (blocking, True),
        (Blocking(), True),
        (lambda: 1, False),
        (lambda request=None: 1, True),
        (lambda *args: 1, True),
        (lambda **kwargs: 1, False),
        (lambda *, flag=1: 1, False),
        (OnlyMethods().other, True),
        (functools.partial(blocking, 1), False),
        (print, True),
    ],
)
def test_a_handler_gets_the_request_when_it_has_a_place_for_it(
    function: Any, expected: bool
) -> None:
    assert takes_request(function) is expected


def test_a_definition_travels_with_code_that_exists_here_only() -> None:
    secret = 41

    def local(number: int) -> int:
        return number + secret

    unpacked = Definition.unpack(Definition(local, (1,)).pack())
    assert unpacked.target is not local
    assert unpacked.target(*unpacked.init_args) == 42


@pytest.mark.parametrize("kind", [FastAPI, Starlette])
def test_an_application_travels_with_its_state(kind: type[Any]) -> None:
    app = kind()
    app.state.model = "loaded"
    unpacked = Definition.unpack(Definition(app).pack())
    assert type(unpacked.target) is kind
    assert unpacked.target.state.model == "loaded"


def test_a_class_travels_with_the_application_that_answers_for_it() -> None:
    app = FastAPI()

    @serve.ingress(app)
    class Local:
        @app.get("/hello")
        def hello(self) -> str:
            return "hello"

    unpacked = Definition.unpack(Definition(Local).pack())
    assert inspect_target(unpacked.target, ()).is_asgi


def test_an_import_path_is_imported_where_it_is_unpacked() -> None:
    packed = Definition("collections.OrderedDict", ([("a", 1)],)).pack()
    unpacked = Definition.unpack(packed)
    assert unpacked.target is importlib.import_module("collections").OrderedDict
    assert unpacked.init_args == ([("a", 1)],)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nodot", "Import path 'nodot' has no dot. Expected 'module.attribute'."),
        ("collections.Nothing", "Module 'collections' has no attribute 'Nothing'."),
        ("no_such_module_here.f", "No module named 'no_such_module_here'"),
    ],
)
def test_an_import_path_that_leads_nowhere_names_what_is_missing(path: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        import_path(path)


def test_an_application_with_an_included_router_travels() -> None:
    app, router = FastAPI(), APIRouter(prefix="/more")
    router.get("/x")(lambda: "x")
    app.include_router(router)
    assert Definition.unpack(Definition(app).pack()).target.url_path_for("<lambda>") == "/more/x"


def test_a_lock_that_is_held_does_not_travel() -> None:
    lock = threading.Lock()
    assert not Definition.unpack(Definition(int, (lock,)).pack()).init_args[0].locked()
    with lock, pytest.raises(TypeError, match="held"):
        Definition(int, (lock,)).pack()


def test_an_outline_tells_the_import_path_and_none_of_the_arguments() -> None:
    outlined = Definition("m.F", ("a password", ["two"]), {"three": "a secret"}).outline()
    assert outlined is not None
    assert outlined.path == "m.F"
    assert "password" not in repr(outlined)
    assert "secret" not in repr(outlined)
    other = Definition("m.F", ("a password", ["two"]), {"three": "another"}).outline()
    assert other is not None
    assert are_same(other.init_args, outlined.init_args)
    assert not are_same(other.init_kwargs, outlined.init_kwargs)


@pytest.mark.parametrize("argument", [threading.Lock(), (1,), b"bytes", {1}])
def test_arguments_that_are_no_plain_data_are_equal_to_nothing(argument: object) -> None:
    outlined = Definition("m.F", (argument,)).outline()
    assert outlined is not None
    assert not are_same(outlined.init_args, outlined.init_args)


def test_the_order_of_keys_is_no_difference_and_their_types_are() -> None:
    def digest(value: object) -> str:
        return outline("m.F", (value,), {}).init_args

    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"1": 1}) != digest({1: 1})
    assert digest(["a", "b"]) != digest(["a, str b"])
    assert digest(-0.0) == digest(0.0)


@pytest.mark.parametrize("target", [blocking, Blocking])
def test_a_scripts_own_code_has_no_outline(target: Any) -> None:
    assert Definition(target).outline() is None


def test_named_arguments_for_a_function_are_refused_as_others_are() -> None:
    with pytest.raises(ValueError, match="'blocking' has no constructor; got 1 init_args"):
        Definition(blocking, (), {"name": 1}).inspect()
