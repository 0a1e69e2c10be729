"""One replica without Ray: it listens, runs calls, reconfigures, drains and stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from observability.instrument.logging_config import LoggingConfig
from serve.call import Call
from serve.config import BackendConfig
from serve.context import get_replica_context, set_replica_context
from serve.definition import Definition, inspect_target
from serve.errors import QueueTimeoutError, ReplicaUnavailableError
from serve.ingress_token import TOKEN_HEADER, make_ingress_token
from serve.records import ReplicaAddress
from serve.replica.records import ReplicaRecords
from serve.replica.replica import Replica
from serve.replica.spec import ReplicaSpec
from serve.transport.client import connect

SECRET = b"secret" * 6
TOKEN = make_ingress_token(SECRET)

Start = Callable[..., Awaitable[tuple[Replica, ReplicaAddress]]]


async def import_target() -> str:
    """Named by its import path in a test below."""
    return "imported"


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts replicas on this machine; they are stopped with the test."""
    started: list[Replica] = []
    records = ReplicaRecords(str(tmp_path), "b", "b#abcdef", "127.0.0.1", LoggingConfig())

    async def start_replica(target: Any, *init_args: Any, **options: Any) -> Any:
        traits = inspect_target(target, init_args)
        config = BackendConfig(**options).resolve(traits)
        packed = Definition(target, init_args).pack()
        spec = ReplicaSpec("c", "b#abcdef", "b", packed, traits, config, 1, [], SECRET)
        replica = Replica(spec, "127.0.0.2", "node", "c:b#abcdef", lambda *copy: None, records)
        address = await replica.start()
        started.append(replica)
        return replica, address

    yield start_replica
    for replica in started:
        await replica.stop()
    records.close()
    set_replica_context(None)


def call(data: Any = None, method: str = "__call__") -> Call:
    return Call(data, {}, method, "e", "r-1")


async def get(address: ReplicaAddress, path: str = "/", token: str = TOKEN) -> httpx.Response:
    base = f"http://{address.host}:{address.http_port}"
    async with httpx.AsyncClient(base_url=base, headers={TOKEN_HEADER: token}) as client:
        return await client.get(path)


async def test_a_replica_answers_over_http_and_over_calls(start: Start) -> None:
    replica, address = await start(lambda request: "hello")
    assert (await get(address)).text == "hello"
    assert await replica.execute(call(), "call") == "hello"


async def test_a_replica_says_where_it_is_reached(start: Start) -> None:
    _, address = await start(lambda request: 1)
    assert (address.replica_tag, address.actor_name, address.node_id) == (
        "b#abcdef", "c:b#abcdef", "node",
    )  # fmt: skip
    assert address.http_port > 0 and address.call_port > 0


async def test_a_replica_listens_on_loopback_until_it_is_exposed(start: Start) -> None:
    replica, before = await start(lambda request: "hello")
    assert (before.host, before.is_exposed) == ("127.0.0.1", False)

    exposed = await replica.expose()
    assert (exposed.host, exposed.is_exposed) == ("127.0.0.2", True)
    assert await replica.expose() == exposed
    assert [(await get(address)).text for address in (before, exposed)] == ["hello"] * 2

    calls = [await connect(address, SECRET, local_node_id="node") for address in (before, exposed)]
    with pytest.raises(ReplicaUnavailableError, match="its own node only"):
        await connect(before, SECRET, local_node_id="other")
    calls.append(await connect(exposed, SECRET, local_node_id="other"))
    for connection in calls:
        assert await connection.call(tuple(call())) == "hello"
        connection.close()


@pytest.mark.parametrize("token", ["", "0" * 64, TOKEN[:-1], TOKEN.upper()])
async def test_whoever_has_no_token_is_a_stranger(start: Start, token: str) -> None:
    ran: list[str] = []
    _, address = await start(lambda request: ran.append("ran"))
    refused = await get(address, token=token)
    assert (refused.status_code, refused.headers["connection"]) == (403, "close")
    assert "only" in refused.text
    assert ran == []


async def test_a_constructor_knows_its_replica(start: Start) -> None:
    class Model:
        def __init__(self) -> None:
            self.tag = get_replica_context().replica_tag

        def __call__(self, request: Any) -> str:
            return self.tag

    replica, _ = await start(Model)
    assert await replica.execute(call(), "call") == "b#abcdef"


async def test_an_import_path_is_run_as_what_it_turns_out_to_be(start: Start) -> None:
    replica, address = await start(f"{__name__}.import_target")
    assert await replica.execute(call(), "call") == "imported"
    assert (await get(address)).text == "imported"


async def test_a_calls_data_and_method_reach_the_handler(start: Start) -> None:
    class Model:
        async def double(self, request: Any) -> int:
            doubled: int = 2 * await request.body()
            return doubled

    replica, _ = await start(Model)
    assert await replica.execute(call(21, "double"), "call") == 42


async def test_an_application_starts_before_requests_come_and_hands_them_its_state(
    start: Start,
) -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        yield {"model": "loaded"}

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.model)

    app = Starlette(routes=[Route("/", show)], lifespan=lifespan)
    _, address = await start(app)
    assert (await get(address)).text == "loaded"


async def test_a_reconfigured_replica_has_the_new_version_and_limit(start: Start) -> None:
    replica, _ = await start(Held, max_concurrent_queries=2)
    await replica.reconfigure(BackendConfig(max_concurrent_queries=1, queue_timeout_s=0.01), 7)
    assert replica.config_version == 7
    let_go = asyncio.Event()
    running = asyncio.ensure_future(replica.execute(call(let_go), "call"))
    await asyncio.sleep(0)
    with pytest.raises(QueueTimeoutError, match="1 of 1"):
        await replica.execute(call(let_go), "call")
    let_go.set()
    await running


async def test_an_idle_replica_drains_in_one_round(start: Start) -> None:
    replica, _ = await start(lambda request: 1)
    assert await asyncio.wait_for(replica.drain(0.001, 60), 60) is True


class Held:
    """Answers once it is let go."""

    async def __call__(self, request: Any) -> str:
        let_go = await request.body()
        await let_go.wait()
        return "done"


async def test_a_drain_waits_for_calls_that_run(start: Start) -> None:
    replica, _ = await start(Held)
    let_go = asyncio.Event()
    running = asyncio.ensure_future(replica.execute(call(let_go), "call"))
    draining = asyncio.ensure_future(replica.drain(0.001, 60))
    await asyncio.sleep(0.03)
    assert not draining.done()
    let_go.set()
    assert await asyncio.wait_for(draining, 60) is True
    assert await running == "done"


async def test_a_drain_gives_up_after_its_time(start: Start) -> None:
    replica, _ = await start(Held)
    let_go = asyncio.Event()
    running = asyncio.ensure_future(replica.execute(call(let_go), "call"))
    await asyncio.sleep(0)
    assert await replica.drain(0.001, 0.02) is False
    let_go.set()
    await running


async def test_a_stopped_replica_answers_no_more(start: Start) -> None:
    replica, address = await start(lambda request: 1)
    await replica.stop()
    with pytest.raises(httpx.ConnectError):
        await get(address)
