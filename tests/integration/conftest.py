"""Instances of Serve for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

import serve
from tests.conftest import free_port


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
    """The module's instance, emptied after each test."""
    yield shared_instance
    for name in serve.list_endpoints():
        serve.delete_endpoint(name)
    for tag in serve.list_backends():
        serve.delete_backend(tag, force=True)
