"""The stage of the ingress's tests: uvicorn servers as replicas, and a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import uvicorn

from observability.instrument.supervision import Troubles
from serve.ingress.admin import AdminClient, send_command
from serve.ingress.keeper import IngressKeeper
from serve.ingress.records import IngressSettings
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.traffic import TrafficPolicy
from tests.conftest import free_port


class Replica:
    """A uvicorn server in this loop. It answers with what it was sent.

    `/hold` answers once `release` is set; `/status/503` with that status.
    """

    def __init__(self, name: str, port: int | None = None, node: str = "node") -> None:
        self.name = name
        self.node = node
        self.port = port or free_port()
        self.release = asyncio.Event()
        self.held = 0
        self.is_holding = asyncio.Event()
        self.requests = 0
        self.body_bytes = 0

    @property
    def at(self) -> str:
        """Where it listens, as HAProxy writes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> ReplicaAddress:
        return ReplicaAddress(self.name, "actor", self.node, "127.0.0.1", self.port, 0)

    async def start(self) -> None:
        config = uvicorn.Config(
            self._answer,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            lifespan="off",
            interface="asgi3",
            ws="websockets-sansio",
            timeout_keep_alive=600,
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._task = asyncio.create_task(self._server._serve())
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        await self._task

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._echo(receive, send)
            return
        self.requests += 1
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            self.body_bytes += len(message.get("body", b""))
            more = message.get("more_body", False)
        path = scope["path"]
        if path.startswith("/hold"):
            self.held += 1
            self.is_holding.set()
            await self.release.wait()
            self.held -= 1
        status = int(path.rsplit("/", 1)[1]) if path.startswith("/status/") else 200
        answer = {
            "replica": self.name,
            "path": path,
            "method": scope["method"],
            "headers": [[k.decode(), v.decode()] for k, v in scope["headers"]],
        }
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"x-request-id", b"the replica's own")]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _echo(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


@contextlib.asynccontextmanager
async def replicas(*names: str) -> AsyncIterator[list[Replica]]:
    """Replicas; a name such as `b#far@other` has the id of its node after the @."""
    split = [name.partition("@") for name in names]
    running = [Replica(name, node=node or "node") for name, _, node in split]
    for replica in running:
        await replica.start()
    try:
        yield running
    finally:
        for replica in running:
            replica.release.set()
            await replica.stop()


def backend(tag: str, *members: Replica, **limits: Any) -> BackendTargets:
    return BackendTargets(tag, tuple(member.address for member in members), **limits)


def route(
    endpoint: str,
    path: str | None,
    weights: dict[str, float],
    *,
    methods: tuple[str, ...] = ("GET",),
    shadows: dict[str, float] | None = None,
    is_mount: bool = False,
) -> IngressRoute:
    return IngressRoute(endpoint, path, methods, is_mount, TrafficPolicy.of(weights, shadows))


def table(routes: list[IngressRoute], *backends: BackendTargets) -> IngressTable:
    return IngressTable(tuple(routes), backends)


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float = 60) -> None:
    """Wait for it."""
    async with asyncio.timeout(timeout_s):
        while not await holds():
            await asyncio.sleep(0.01)


class HaproxyView:
    """What HAProxy itself says over its runtime socket, and its keeper's troubles."""

    def __init__(self, settings: IngressSettings, troubles: Troubles) -> None:
        self.settings = settings
        self.troubles = troubles
        self.admin = AdminClient(settings.admin_socket)

    async def addresses(self) -> list[str]:
        """Where the servers of the table are, those that are on their way out included."""
        states = await self.admin.list_servers()
        return [state.address for state in states if state.section.startswith("b_")]

    async def queued(self) -> int:
        """Requests that wait for a free server."""
        return sum((await self.admin.queue_lengths()).values())

    async def retries(self) -> int:
        """Attempts to connect that were made again, of all its life."""
        answer = await send_command(self.settings.admin_socket, "show stat -1 2 -1")
        rows = csv.DictReader(answer.removeprefix("# ").splitlines())
        return sum(int(row["wretr"] or 0) for row in rows)


@contextlib.asynccontextmanager
async def ingress(
    served: IngressTable, preferred_node: str = "", program: str | None = None
) -> AsyncIterator[tuple[IngressKeeper, httpx.AsyncClient]]:
    """A keeper that serves the table, and a client of it."""
    async with watched_ingress(served, preferred_node, program) as (keeper, client, _):
        yield keeper, client


@contextlib.asynccontextmanager
async def watched_ingress(
    served: IngressTable, preferred_node: str = "", program: str | None = None
) -> AsyncIterator[tuple[IngressKeeper, httpx.AsyncClient, HaproxyView]]:
    """The same, with HAProxy's own view of it."""
    with tempfile.TemporaryDirectory(prefix="ing-", dir="/tmp") as folder:
        settings = IngressSettings(
            *("127.0.0.1", free_port(), f"{folder}/run", preferred_node),
            prefers_local=bool(preferred_node),
        )
        troubles = Troubles()
        keeper = IngressKeeper(settings, program, troubles=troubles)
        await keeper.start(served)
        try:
            url = f"http://127.0.0.1:{settings.port}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                yield keeper, client, HaproxyView(settings, troubles)
        finally:
            await keeper.stop(0)


def sent(response: httpx.Response) -> dict[str, list[str]]:
    """Headers that reached the replica, by name."""
    headers: dict[str, list[str]] = {}
    for name, value in response.json()["headers"]:
        headers.setdefault(name, []).append(value)
    return headers


async def test_the_stage_passes_a_request_from_client_to_replica() -> None:
    async with replicas("b#aaaaaa") as [only]:
        served = table([route("e", "/f", {"b": 1})], backend("b", only))
        async with ingress(served) as (_, client):
            response = await client.get("/f")
            assert response.json()["replica"] == "b#aaaaaa"
