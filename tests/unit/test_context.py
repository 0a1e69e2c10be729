"""Which replica this process is, and which request code works for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

import serve
from observability.instrument.context import RequestContext, request_context
from serve.context import owning_controller, set_replica_context


@pytest.fixture
def replica() -> Iterator[None]:
    """This process is a replica, for one test."""
    set_replica_context(serve.ReplicaContext("model", "model#abcdef", "controller"))
    yield
    set_replica_context(None)


@pytest.mark.parametrize(
    "function",
    [serve.get_replica_context, serve.get_current_backend_tag, serve.get_current_replica_tag],
    ids=lambda function: function.__name__,
)
def test_outside_a_backend_there_is_no_context(function: Callable[[], object]) -> None:
    with pytest.raises(
        serve.RayServeException,
        match=rf"`serve\.{function.__name__}\(\)` may only be called from within a Ray Serve",
    ):
        function()


def test_outside_a_backend_no_controller_owns_the_process() -> None:
    assert owning_controller() is None


@pytest.mark.usefixtures("replica")
def test_inside_a_backend_the_context_has_both_tags() -> None:
    context = serve.get_replica_context()
    assert (context.backend_tag, context.replica_tag) == ("model", "model#abcdef")
    assert serve.get_current_backend_tag() == "model"
    assert serve.get_current_replica_tag() == "model#abcdef"


@pytest.mark.usefixtures("replica")
def test_inside_a_backend_its_controller_is_known() -> None:
    assert owning_controller() == "controller"


async def test_a_requests_context_is_seen_by_the_tasks_it_starts_and_by_no_other() -> None:
    async def look() -> RequestContext | None:
        return request_context.get()

    async def work(request_id: str) -> str:
        request_context.set(RequestContext(request_id))
        seen = await asyncio.create_task(look())
        return seen.request_id if seen is not None else "none"

    assert await asyncio.gather(*(asyncio.create_task(work(i)) for i in "ab")) == ["a", "b"]
    assert request_context.get() is None
