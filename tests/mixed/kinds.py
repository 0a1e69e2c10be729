"""The kinds of request that are mixed: what each client does, sees, and what must be recorded."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import serve
from observability.instrument.context import RequestContext, request_context
from serve.errors import QueueFullError, QueueTimeoutError, ReplicaDiedError
from tests.mixed.backends import PIECE, RAISED
from tests.mixed.seen import GONE, Want
from tests.mixed.wire import Answer, CutError, Wire, connection, encode_head

Outcome = tuple[str, list[Want]]
"""What the client saw, and the records that there must be."""

STRAYS_PER_S = 40
"""Beyond a hundred a second, requests that no endpoint takes are sampled (`ingress/strays.py`)."""


@dataclass
class World:
    """What a client works with.

    Attributes:
        port: of the ingress.
        name: what the names of the endpoints begin with.
        wire: a kept connection, of this client alone.
        random: of this client alone.
        pace: one at a time, for strays.
        mortals: processes of the backend whose replicas are killed, as they said.
    """

    port: int
    name: str
    wire: Wire
    random: random.Random
    pace: asyncio.Lock
    mortals: set[int]

    def endpoint(self, part: str) -> str:
        return f"{self.name}-{part}"


Client = Callable[[World, str], Awaitable[Outcome]]


async def _http(
    part: str,
    world: World,
    request_id: str,
    *,
    method: str = "",
    query: str = "",
    verb: str = "GET",
    body: bytes = b"",
    wants: Callable[[Answer], dict[str, Any]] = lambda answer: {},
) -> Outcome:
    """A whole request and answer; `wants` changes what the record must be."""
    headers = {"X-Request-ID": request_id}
    if method:
        headers["X-Serve-Call-Method"] = method
    endpoint = world.endpoint(part)
    try:
        answer = await world.wire.ask(verb, f"/{endpoint}{query}", headers, body)
    except CutError as error:
        return str(error), [Want("http", (error.status,), endpoint, None)]
    assert answer.headers["x-request-id"] == request_id
    usual = {"error": "", "bytes_out": len(answer.body)} | wants(answer)
    return f"{answer.status}, {len(answer.body)} B", [
        Want("http", (answer.status,), endpoint, **usual)
    ]


def _plain(part: str = "plain", **options: Any) -> Client:
    return partial(_http, part, **options)


def _raising(method: str, part: str = "plain") -> Client:
    async def ask(world: World, request_id: str) -> Outcome:
        how, told = world.random.choice(list(RAISED.items()))
        return await _http(
            part,
            world,
            request_id,
            method=method,
            query=f"?how={how}",
            wants=lambda answer: {"error": told},
        )

    return ask


async def _app_raising(world: World, request_id: str) -> Outcome:
    how, told = world.random.choice(list(RAISED.items()))
    return await _http(
        "app", world, request_id, query=f"/raise/{how}", wants=lambda answer: {"error": told}
    )


async def _breaking(world: World, request_id: str) -> Outcome:
    how = world.random.choice([how for how in RAISED if how != "cancelled"])
    saw, (want,) = await _http("plain", world, request_id, method="breaking", query=f"?how={how}")
    assert want.statuses == (200,), saw
    return saw, [Want("http", (200,), want.endpoint, RAISED[how], len(PIECE))]


async def _stray(
    world: World, request_id: str, *, verb: str, path: str, endpoint: str = ""
) -> Outcome:
    """A request that no endpoint takes, at a pace at which all are recorded."""
    async with world.pace:
        await asyncio.sleep(1 / STRAYS_PER_S)
        path = path.replace("{name}", world.name)
        answer = await world.wire.ask(verb, path, {"X-Request-ID": request_id})
    error = {404: "not_found", 405: "method_not_allowed"}[answer.status]
    endpoint = endpoint and world.endpoint(endpoint)
    return str(answer.status), [Want("http", (answer.status,), endpoint, error)]


def _waiting(part: str, error: str) -> Client:
    """For a backend that can't take all: either an answer, or a 503 with its reason."""
    return _plain(
        part,
        verb="POST",
        wants=lambda answer: {} if answer.status == 200 else {"error": error, "bytes_out": None},
    )


# Clients that leave.


async def _leave_stream(world: World, request_id: str) -> Outcome:
    endpoint = world.endpoint("plain")
    headers = {"X-Request-ID": request_id, "X-Serve-Call-Method": "streaming"}
    head = encode_head("GET", f"/{endpoint}?n=100&s=0.05", headers)
    async with connection(world.port, head) as (reader, _):
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(4):
            await reader.readuntil(PIECE)
    return "200, left after 4 pieces", [Want("http", (200,), endpoint, "client_gone")]


async def _leave_upload(world: World, request_id: str) -> Outcome:
    endpoint = world.endpoint("plain")
    headers = {"X-Request-ID": request_id, "X-Serve-Call-Method": "upload"}
    head = encode_head("POST", f"/{endpoint}", headers, 100_000)
    async with connection(world.port, head + PIECE):
        await asyncio.sleep(world.random.choice([0, 0.01, 0.1]))
    # On a busy machine it may be gone before the replica has read its head: HAProxy resets that
    # connection, and what lies unread in it is lost.
    want = Want("http", (GONE,), endpoint, "client_gone", is_optional=True)
    return "left in its upload", [want]


def _leave_early(part: str, method: str) -> Client:
    async def leave(world: World, request_id: str) -> Outcome:
        endpoint = world.endpoint(part)
        headers = {"X-Request-ID": request_id, "X-Serve-Call-Method": method}
        head = encode_head("GET", f"/{endpoint}?s=0.6", headers)
        async with connection(world.port, head):
            await asyncio.sleep(world.random.choice([0, 0.02, 0.1]))
        # On a busy machine the answer may be written before anybody sees that it left.
        return "left before its answer", [Want("http", (GONE, 200), endpoint, None)]

    return leave


async def _leave_at_once(world: World, request_id: str) -> Outcome:
    """It can't know whether it was answered."""
    endpoint = world.endpoint("twice")
    head = encode_head("GET", f"/{endpoint}", {"X-Request-ID": request_id})
    async with connection(world.port, head):
        pass
    return "left at once", [Want("http", (200, GONE), endpoint, None)]


# WebSockets.


def _websocket(how: str, code: int, error: str) -> Client:
    async def talk(world: World, request_id: str) -> Outcome:
        endpoint = world.endpoint("app")
        url = f"ws://127.0.0.1:{world.port}/{endpoint}/ws/{'echo' if how == 'vanish' else how}"
        async with connect(
            url, additional_headers={"X-Request-ID": request_id}, compression=None
        ) as line:
            if how in ("echo", "vanish"):
                await line.send("hello")
                assert await line.recv() == "hello"
            else:
                try:
                    await line.recv()
                except ConnectionClosed:
                    assert line.close_code == code, line.close_code
            if how == "vanish":
                line.transport.abort()
        size = 5 if how in ("echo", "vanish") else 0
        return f"101, closed {code}", [
            Want("websocket", (101,), endpoint, error, size, close_code=code)
        ]

    return talk


# Handles.


def _call(method: str, want: Want | None, part: str = "plain", **kwargs: Any) -> Client:
    """A direct call; `want` without its endpoint. None: whatever the caller saw."""

    async def call(world: World, request_id: str) -> Outcome:
        request_context.set(RequestContext(request_id))
        endpoint = world.endpoint(part)
        handle = serve.get_handle(endpoint, sync=False).options(method_name=method)
        try:
            saw = str(await handle.call(None, **kwargs))
        except (QueueFullError, QueueTimeoutError, ReplicaDiedError) as error:
            status, told = _TOLD_BY_CALLER[type(error).__name__.encode()]
            return type(error).__name__, [Want("call", (status,), endpoint, told)]
        except Exception as error:  # noqa: BLE001 - the backend's, as wanted
            saw = type(error).__name__
        return saw, [_at(want or Want("call", (200,), ""), endpoint)]

    return call


def _at(want: Want, endpoint: str) -> Want:
    return Want(want.way, want.statuses, endpoint, want.error)


async def _call_raising(world: World, request_id: str) -> Outcome:
    how, told = world.random.choice(list(RAISED.items()))
    method = world.random.choice(["failing", "failing_blocking"])
    return await _call(method, Want("call", (500,), "", told), how=how)(world, request_id)


async def _call_cancelled(world: World, request_id: str) -> Outcome:
    """The replica may hear of it before it began, or in its middle."""
    request_context.set(RequestContext(request_id))
    endpoint = world.endpoint("plain")
    handle = serve.get_handle(endpoint, sync=False).options(method_name="slow")
    response = handle.call(None, s="0.6")
    wait_s = world.random.choice([0, 0.05, 0.1])
    await asyncio.sleep(wait_s)
    response.cancel()
    want = Want("call", (GONE,), endpoint, "caller_gone")
    return f"cancelled after {wait_s} s", [want]


def _in_thread(ask: Callable[[Any], str], method: str, want: Want, **kwargs: Any) -> Client:
    """A call from blocking code."""

    async def call(world: World, request_id: str) -> Outcome:
        endpoint = world.endpoint("plain")

        def work() -> str:
            request_context.set(RequestContext(request_id))
            try:
                return ask(serve.get_handle(endpoint).options(method_name=method))
            except Exception as error:  # noqa: BLE001 - the backend's, as wanted
                return type(error).__name__

        saw = await asyncio.to_thread(work)
        return saw, [_at(want, endpoint)]

    return call


def _call_impatiently(handle: Any) -> str:
    try:
        return str(handle.call(None, s="0.3").result(0.02))
    except TimeoutError:
        return "no answer yet"


def _remote_impatiently(handle: Any) -> str:
    try:
        return str(ray.get(handle.remote(None, s="0.3"), timeout=0.02))
    except GetTimeoutError:
        return "no answer yet"


def _nested(part: str, calls: list[tuple[str, str, int, str]], **options: Any) -> Client:
    """An HTTP request whose handler calls: (endpoint, way, status, error) of each."""

    async def ask(world: World, request_id: str) -> Outcome:
        saw, wants = await _http(part, world, request_id, **options)
        below = [
            Want(way, (status,), world.endpoint(endpoint), error)
            for endpoint, way, status, error in calls
        ]
        return saw, wants + below

    return ask


_TOLD_BY_CALLER = {
    b"QueueFullError": (503, "queue_full"),
    b"QueueTimeoutError": (503, "queue_timeout"),
    b"ReplicaDiedError": (502, "replica_died"),
}


def _nested_in_vain(part: str, method: str) -> Client:
    """A replica calls what does not answer: the replica that called tells of it."""

    async def ask(world: World, request_id: str) -> Outcome:
        answers: list[Answer] = []

        def keep(answer: Answer) -> dict[str, Any]:
            answers.append(answer)
            return {}

        saw, wants = await _http("inner", world, request_id, method=method, wants=keep)
        told = answers[0].body if answers else b""
        status, error = _TOLD_BY_CALLER.get(told, (200, ""))
        return f"{saw} {told!r}", [*wants, Want("call", (status,), world.endpoint(part), error)]

    return ask


@dataclass(frozen=True)
class Kind:
    """One kind: how many of all requests are of it, in proportion, and its client."""

    name: str
    weight: float
    client: Client


def _dying(verb: str) -> Client:
    def want(answer: Answer) -> dict[str, Any]:
        # Where none was left to die: no_replica.
        error = "replica_died" if answer.status == 502 else "no_replica"
        return {"error": error, "bytes_out": None}

    return _plain("mortal", verb=verb, query="?die=1", wants=want)


async def _while_killed(world: World, request_id: str) -> Outcome:
    """A request to a backend whose replicas are killed at random."""

    def want(answer: Answer) -> dict[str, Any]:
        if answer.status != 200:
            return {"error": None, "bytes_out": None}
        world.mortals.add(int(answer.body))
        return {}

    verb = world.random.choice(["GET", "POST"])
    saw, wants = await _http("mortal", world, request_id, verb=verb, wants=want)
    return re.sub(r"(?<=200, ).*", "its pid", saw), wants


KINDS = (
    Kind("GET async", 20, _plain("twice")),
    Kind("GET blocking", 8, _plain("twice", method="blocking")),
    Kind("POST", 8, _plain("twice", verb="POST", body=b"b" * 3000)),
    Kind("app", 6, _plain("app", query="/fine")),
    Kind("app blocking", 3, _plain("app", query="/blocking")),
    Kind("app raises", 3, _app_raising),
    Kind("app refuses", 2, _plain("app", query="/http/418")),
    Kind("app refuses with 503", 1, _plain("app", query="/http/503")),
    Kind("app has no such route", 2, _plain("app", query="/nowhere")),
    Kind("stream", 3, _plain(method="streaming", query="?n=20")),
    Kind("slow stream", 1, _plain(method="streaming", query="?n=5&s=0.02")),
    Kind("blocking stream", 2, _plain(method="streaming_blocking", query="?n=20")),
    Kind("404", 1, partial(_stray, verb="GET", path="/no/such/{name}")),
    Kind("405", 1, partial(_stray, verb="PUT", path="/{name}-plain", endpoint="plain")),
    Kind("method not exposed", 1, _plain(method="hidden", wants=lambda _: {"error": "method_not"})),
    Kind("raises", 4, _raising("failing")),
    Kind("raises in a thread", 2, _raising("failing_blocking")),
    Kind("raises in a task", 2, _raising("failing_in_task")),
    Kind("refused header", 1, _plain(method="refused", wants=lambda _: {"error": "BadAnswerErr"})),
    Kind("stream breaks", 1, _breaking),
    Kind("leaves in a stream", 1.5, _leave_stream),
    Kind("leaves in its upload", 1.5, _leave_upload),
    Kind("leaves early", 1.5, _leave_early("plain", "slow")),
    Kind("leaves a blocking handler early", 0.3, _leave_early("twice", "slow_blocking")),
    Kind("leaves at once", 2, _leave_at_once),
    Kind("WebSocket", 1.5, _websocket("echo", 1000, "")),
    Kind("WebSocket raises", 1, _websocket("ordinary", 1011, "ValueError")),
    Kind("WebSocket panics", 0.5, _websocket("panic", 1011, "Panic")),
    Kind("WebSocket left open", 0.5, _websocket("return", 1000, "")),
    Kind("WebSocket vanishes", 1, _websocket("vanish", 1006, "client_gone")),
    Kind("call", 8, _call("__call__", None, "twice")),
    Kind("call raises", 3, _call_raising),
    Kind("call is cancelled", 1.5, _call_cancelled),
    Kind(
        "call is not waited for",
        0.5,
        _in_thread(_call_impatiently, "slow", Want("call", (200,), "")),
    ),
    Kind("call to a full queue", 2, _call("__call__", None, "tight")),
    Kind("call to a slow queue", 1, _call("__call__", None, "impatient")),
    Kind(
        "remote",
        1,
        _in_thread(lambda h: str(ray.get(h.remote())), "__call__", Want("remote", (200,), "")),
    ),
    Kind(
        "remote raises",
        1,
        _in_thread(
            lambda h: str(ray.get(h.remote(how="panic"))),
            "failing",
            Want("remote", (500,), "", "Panic"),
        ),
    ),
    Kind(
        "remote is not waited for",
        0.5,
        _in_thread(_remote_impatiently, "slow", Want("remote", (200,), "")),
    ),
    Kind("nested", 2, _nested("inner", [("plain", "call", 200, "")])),
    Kind(
        "nested twice",
        1,
        _nested("outer", [("inner", "call", 200, ""), ("plain", "call", 200, "")]),
    ),
    Kind(
        "nested raises",
        1,
        _nested("inner", [("plain", "call", 500, "ValueError")], method="failing"),
    ),
    Kind("nested to a full queue", 2, _nested_in_vain("tight", "busy")),
    Kind("batch", 2, _plain("batched")),
    Kind(
        "batch raises",
        1,
        _plain("batched-failing", query="?how=1", wants=lambda _: {"error": "ValueErr"}),
    ),
    Kind("in a batch", 2, _plain(method="in_batch")),
    Kind("full queue", 2, _waiting("tight", "queue_full")),
    Kind("slow queue", 1, _waiting("impatient", "queue_timeout")),
    # Small weights: each ends a process that takes seconds to come back.
    Kind("GET that kills", 0.05, _dying("GET")),
    Kind("POST that kills", 0.05, _dying("POST")),
    Kind("while replicas are killed", 0.5, _while_killed),
    Kind("call that kills", 0.03, _call("__call__", None, "mortal", die="1")),
    Kind("nested call that kills", 0.03, _nested_in_vain("mortal", "deadly")),
)
"""All kinds, and their weights. Weight 0: not sent."""
