"""A first call while the controller does not answer: who waits for it, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

import serve
from serve.client import Client
from serve.handle.handle import RayServeHandle, RayServeSyncHandle
from serve.handle.registry import close_registry, find_registry
from serve.ids import DETACHED_CONTROLLER
from tests.integration.conftest import Deploy

TICKS = 20


def answer() -> str:
    return "up"


@contextlib.contextmanager
def suspended(client: Client) -> Iterator[Callable[[], None]]:
    """The instance's controller does not answer, until what this gives is called or it is over."""
    pid = client.status().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def as_if_new(controller_name: str) -> None:
    """This process knows nothing of an instance, as when it has just begun."""
    close_registry(controller_name)
    assert find_registry(controller_name) is None


@pytest.fixture(scope="module")
def name(keep: Deploy) -> str:
    """The endpoint that is called."""
    return keep(answer)


async def call(name: str) -> Any:
    return await RayServeSyncHandle(DETACHED_CONTROLLER, name).call()


async def remote(name: str) -> Any:
    return await (await RayServeHandle(DETACHED_CONTROLLER, name).remote())


@pytest.mark.parametrize("way", [call, remote])
def test_the_loop_goes_on_while_the_first_call_waits_for_the_controller(
    name: str, way: Callable[[str], Awaitable[Any]]
) -> None:
    as_if_new(DETACHED_CONTROLLER)

    async def run(wake: Callable[[], None]) -> list[Any]:
        calls = [asyncio.ensure_future(way(name)) for _ in range(3)]
        for _ in range(TICKS):
            await asyncio.sleep(0.01)
        assert not any(call.done() for call in calls)
        wake()
        return await asyncio.gather(*calls)

    with suspended(serve.connect()) as wake:
        assert asyncio.run(run(wake)) == ["up"] * 3


def test_a_first_call_that_is_given_up_does_not_end_the_others(name: str) -> None:
    as_if_new(DETACHED_CONTROLLER)

    async def run(wake: Callable[[], None]) -> Any:
        given_up, other = (asyncio.ensure_future(call(name)) for _ in range(2))
        await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        wake()
        return await other

    with suspended(serve.connect()) as wake:
        assert asyncio.run(run(wake)) == "up"


def test_a_blocking_first_call_holds_up_no_call_to_another_instance(name: str) -> None:
    other = serve.start(http_options={"location": "NoServer"})
    other.create_backend("other", answer, ray_actor_options={"num_cpus": 0})
    other.create_endpoint("other", backend="other")
    as_if_new(DETACHED_CONTROLLER)
    as_if_new(other.controller_name)
    detached = serve.connect()
    with suspended(detached) as wake, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            lambda: ray.get(RayServeSyncHandle(DETACHED_CONTROLLER, name).remote())
        )
        there = RayServeSyncHandle(other.controller_name, "other")
        assert there.call().result(60) == "up"
        assert ray.get(there.remote()) == "up"
        assert not waiting.done()
        wake()
        assert waiting.result(60) == "up"
    other.shutdown()


def test_a_call_whose_controller_stays_away_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_new(DETACHED_CONTROLLER)
    monkeypatch.setattr("serve.handle.registry.FIRST_VALUE_S", 0.5)
    with suspended(serve.connect()):
        with pytest.raises(serve.RayServeException, match=r"did not answer within 0\.5 s"):
            asyncio.run(call(name))
    monkeypatch.undo()
    assert asyncio.run(call(name)) == "up"


def test_a_change_is_made_though_the_processs_handles_cannot_ask_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert RayServeSyncHandle(DETACHED_CONTROLLER, name).call().result(60) == "up"
    registry = find_registry(DETACHED_CONTROLLER)
    assert registry is not None
    monkeypatch.setattr("serve.handle.registry.FIRST_VALUE_S", 0.5)
    with suspended(serve.connect()), caplog.at_level("WARNING", "ray.serve"):
        registry.refresh()
    assert "can't ask for the change yet" in caplog.text
