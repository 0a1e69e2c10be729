"""Instances of Serve whose traces are on, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest

import serve
from tests.conftest import free_port
from tests.integration.conftest import Instance

QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@contextmanager
def run_instance(variables: Mapping[str, str]) -> Iterator[Instance]:
    """An instance that is started where these variables are set; they are unset again at once."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        serve.start(detached=True, http_options={"port": port})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            yield Instance(port, http)
    finally:
        serve.shutdown()
