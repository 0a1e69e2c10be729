"""Instances of Serve for tests."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import serve
from tests.conftest import free_port
from tests.integration.samples import QUICK, hold_until


@dataclass
class Instance:
    """A running instance and an HTTP client for it."""

    port: int
    http: httpx.Client

    def url(self, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture(scope="module")
def shared_instance(ray_cluster: None) -> Iterator[Instance]:
    """One instance for all tests of a module."""
    port = free_port()
    serve.start(detached=True, http_options={"port": port})
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        yield Instance(port, http)
    serve.shutdown()


@pytest.fixture
def instance(shared_instance: Instance) -> Iterator[Instance]:
    """The module's instance, emptied after each test of all that was made in it."""
    endpoints, backends = set(serve.list_endpoints()), set(serve.list_backends())
    yield shared_instance
    for name in serve.list_endpoints().keys() - endpoints:
        serve.delete_endpoint(name)
    for tag in serve.list_backends().keys() - backends:
        serve.delete_backend(tag, force=True)


Deploy = Callable[..., str]


@pytest.fixture
def deploy(shared_instance: Instance) -> Iterator[Deploy]:
    """Makes a backend and an endpoint of one new name, which it returns; both go after the test.

    Called as `deploy(target, *init_args, route=None, **config)`; `{name}` in a route is the name.
    """
    with _deployments() as make:
        yield make


@pytest.fixture(scope="module")
def keep(shared_instance: Instance) -> Iterator[Deploy]:
    """As `deploy`, for fixtures of a module: both stay until its last test is done."""
    with _deployments() as make:
        yield make


@contextlib.contextmanager
def _deployments() -> Iterator[Deploy]:
    names: list[str] = []

    def make(target: Any, *init_args: Any, route: str | None = None, **config: Any) -> str:
        word = getattr(target, "__name__", type(target).__name__).lower().strip("_<>")
        name = f"{word}_{next(_numbers)}"
        names.append(name)
        serve.create_backend(
            name, target, *init_args, ray_actor_options={"num_cpus": 0}, config=config
        )
        serve.create_endpoint(name, backend=name, route=route and route.replace("{name}", name))
        return name

    yield make
    for name in reversed(names):
        serve.delete_endpoint(name)
        serve.delete_backend(name, force=True)


@pytest.fixture(scope="module")
def held_single(keep: Deploy) -> str:
    """One replica of `hold_until`, one call at a time."""
    return keep(hold_until, max_concurrent_queries=1)


@pytest.fixture(scope="module")
def held_pair(keep: Deploy) -> str:
    """Two replicas of `hold_until`, one call at a time each."""
    return keep(hold_until, num_replicas=2, max_concurrent_queries=1)


_numbers = itertools.count(1)


@pytest.fixture
def bring_up(instance: Instance) -> Deploy:
    """Make a backend and an endpoint for it: `bring_up(target, *init_args, **config)` gives their
    name.

    The name is the backend's tag and the endpoint's name, and the route is `/<name>`; no other test
    of the session has it, whose handles and series would still be there. `methods` and
    `actor_options` are taken out of the configuration.
    """

    def make(
        target: Any,
        *init_args: Any,
        methods: list[str] | None = None,
        actor_options: dict[str, Any] | None = None,
        **config: Any,
    ) -> str:
        name = f"b{next(_numbers)}"
        serve.create_backend(
            name, target, *init_args, ray_actor_options=actor_options, config=QUICK | config
        )
        serve.create_endpoint(name, backend=name, route=f"/{name}", methods=methods)
        return name

    return make
