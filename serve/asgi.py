"""ASGI applications as backends: `serve.ingress(app)`, and its routes bound to an instance."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from starlette.routing import Route, WebSocketRoute

from serve.definition import ASGI_APP

C = TypeVar("C", bound=type)


def ingress(app: Any) -> Callable[[C], C]:
    """Let an ASGI application answer for a class; its route functions may be the class's methods.

    Args:
        app: a FastAPI or Starlette application, or any other ASGI application.

    Raises:
        ValueError: used on something that is no class.

    Example:
        >>> app = FastAPI()
        >>> @serve.ingress(app)
        ... class Greeter:
        ...     @app.get("/hello/{name}")
        ...     def hello(self, name: str) -> str:
        ...         return f"hello {name}"
        >>> serve.create_backend("greeter", Greeter)
        >>> serve.create_endpoint("greet", backend="greeter", route="/greet")
    """

    def decorate(cls: C) -> C:
        if not inspect.isclass(cls):
            raise ValueError(
                f"@serve.ingress must be used with a class. Got {type(cls).__name__}: {cls!r}. A "
                "bare application needs no decorator: serve.create_backend(tag, app)."
            )
        setattr(cls, ASGI_APP, app)
        for function in filter(inspect.isfunction, vars(cls).values()):
            _resolve_annotations(function)
        return cls

    return decorate


def bind_routes(app: Any, instance: object) -> None:
    """Make the routes of `app` that are methods of the instance's class call that instance."""
    routes = getattr(getattr(app, "router", None), "routes", None)
    if routes is not None:
        _bind(routes, instance)


def _resolve_annotations(function: Any) -> None:
    # A replica reads them again when it binds the method to its instance. As text (`from __future__
    # import annotations`) they would name what a function that travelled by value has left behind.
    if any(isinstance(annotation, str) for annotation in function.__annotations__.values()):
        with contextlib.suppress(NameError):  # FastAPI has said so already, where it matters
            function.__annotations__ = get_type_hints(function, include_extras=True)


def _bind(routes: list[Any], instance: object) -> None:
    for index, route in enumerate(list(routes)):
        included = getattr(route, "original_router", None)  # of FastAPI's include_router
        if included is not None:
            _bind(included.routes, instance)
            continue
        name = _method_name(route, type(instance))
        if name is not None:
            routes[index] = _rebuild(route, getattr(instance, name))


def _method_name(route: Any, cls: type) -> str | None:
    endpoint = getattr(route, "endpoint", None)
    qualname = getattr(endpoint, "__qualname__", "")
    for base in cls.__mro__:
        name = getattr(endpoint, "__name__", "")
        if name not in vars(base):
            continue
        # A class that travelled by value has lost the longer part of its qualified name.
        if vars(base)[name] is endpoint or qualname == f"{base.__qualname__}.{name}":
            return name
    return None


def _rebuild(route: Any, method: Callable[..., Any]) -> Any:
    if type(route) is Route:
        return Route(route.path, method, methods=list(route.methods or ()), name=route.name)
    if type(route) is WebSocketRoute:
        return WebSocketRoute(route.path, method, name=route.name)
    return _rebuild_fastapi(route, method)


def _rebuild_fastapi(route: Any, method: Callable[..., Any]) -> Any:
    # FastAPI reads a route function's parameters when the route is made. Including the route into
    # a new router makes it anew with all its other properties, and now without `self`.
    from fastapi import APIRouter

    route.endpoint = method
    old, new = APIRouter(), APIRouter()
    old.routes.append(route)
    new.include_router(old)
    return new.routes[0]
