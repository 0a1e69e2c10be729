"""What is served: backends that answer, raise, wait, stream and die, as they are told."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI, HTTPException, WebSocket
from starlette.responses import PlainTextResponse, Response, StreamingResponse

import serve

QUICK: dict[str, Any] = {
    "experimental_graceful_shutdown_wait_loop_s": 0.05,
    "max_concurrent_queries": 1000,
    "max_queued_queries": 10_000,
}
PIECE = b"x" * 1000


class Panic(BaseException):
    """What extensions in other languages raise."""


def fail(how: str) -> None:
    """Raise something."""
    if how == "exit":
        sys.exit(3)
    if how == "panic":
        raise Panic("lost")
    if how == "cancelled":
        raise asyncio.CancelledError("of the handler's own")
    if how == "interrupt":
        raise KeyboardInterrupt
    raise ValueError("bad input")


RAISED = {
    "ordinary": "ValueError",
    "exit": "SystemExit",
    "panic": "Panic",
    "cancelled": "CancelledError",
    "interrupt": "KeyboardInterrupt",
}


class Plain:
    """Handlers of each sort."""

    async def __call__(self, request: Any) -> Any:
        return await request.body() or "fine"

    @serve.expose
    def blocking(self, request: Any) -> str:
        return "fine"

    @serve.expose
    async def slow(self, request: Any) -> str:
        await asyncio.sleep(float(request.query_params["s"]))
        return "late"

    @serve.expose
    def slow_blocking(self, request: Any) -> str:
        time.sleep(float(request.query_params["s"]))
        return "late"

    @serve.expose
    async def failing(self, request: Any) -> None:
        fail(request.query_params["how"])

    @serve.expose
    def failing_blocking(self, request: Any) -> None:
        fail(request.query_params["how"])

    @serve.expose
    async def failing_in_task(self, request: Any) -> None:
        async def work() -> None:
            fail(request.query_params["how"])

        await asyncio.create_task(work())

    @serve.expose
    async def refused(self, request: Any) -> Response:
        return PlainTextResponse("", headers={"content-disposition": "a\nb"})

    @serve.expose
    async def streaming(self, request: Any) -> Response:
        pause_s, count = float(request.query_params.get("s", 0)), int(request.query_params["n"])

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield PIECE
                if pause_s:
                    await asyncio.sleep(pause_s)

        return StreamingResponse(pieces())

    @serve.expose
    def streaming_blocking(self, request: Any) -> Response:
        def pieces() -> Iterator[bytes]:
            for _ in range(int(request.query_params["n"])):
                yield PIECE

        return StreamingResponse(pieces())

    @serve.expose
    async def breaking(self, request: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield PIECE
            await asyncio.sleep(0)
            fail(request.query_params["how"])

        return StreamingResponse(pieces())

    @serve.expose
    async def upload(self, request: Any) -> str:
        return str(len(await request.body()))

    @serve.batch(max_batch_size=8)
    async def _gather(self, items: list[Any]) -> list[Any]:
        return items

    @serve.expose
    async def in_batch(self, request: Any) -> str:
        await self._gather(1)
        return "fine"


@serve.accept_batch
async def answer_batch(requests: list[Any]) -> list[str]:
    """Answers eight at once; raises when one of them is told to."""
    await asyncio.sleep(0.005)
    if any("how" in request.query_params for request in requests):
        fail("ordinary")
    return ["fine"] * len(requests)


class Caller:
    """Calls another endpoint."""

    def __init__(self, name: str, below: str) -> None:
        self._name = name
        self._fine = serve.get_handle(f"{name}-plain", sync=False)
        self._below = serve.get_handle(below, sync=False) if below else None

    async def __call__(self, request: Any) -> str:
        handle = self._below or self._fine
        return str(await handle.call(None))

    @serve.expose
    async def failing(self, request: Any) -> str:
        try:
            await self._fine.options(method_name="failing").call(how="ordinary")
        except ValueError:
            return "it failed"
        return "it did not fail"

    @serve.expose
    async def busy(self, request: Any) -> str:
        """Calls what is full; says what came of it."""
        try:
            return str(await serve.get_handle(f"{self._name}-tight", sync=False).call(None))
        except Exception as error:  # noqa: BLE001 - whoever asked wants to know
            return type(error).__name__

    @serve.expose
    async def deadly(self, request: Any) -> str:
        """Calls what dies of it; says what came of it."""
        try:
            return str(await serve.get_handle(f"{self._name}-mortal", sync=False).call(die="1"))
        except Exception as error:  # noqa: BLE001 - whoever asked wants to know
            return type(error).__name__


async def rest(request: Any) -> str:
    """Takes its time, for queues."""
    await asyncio.sleep(0.05)
    return "rested"


async def die(request: Any) -> str:
    """Says which process it is, or ends it."""
    if "die" in request.query_params:
        os._exit(3)
    return str(os.getpid())


def make_app() -> FastAPI:
    """Routes and WebSockets; made in a function so that it travels by value."""
    app = FastAPI()

    @app.get("/fine")
    async def fine() -> dict[str, int]:
        return {"a": 1}

    @app.get("/blocking")
    def blocking() -> dict[str, int]:
        return {"a": 1}

    @app.get("/raise/{how}")
    async def raise_it(how: str) -> None:
        fail(how)

    @app.get("/http/{status}")
    async def refuse(status: int) -> None:
        raise HTTPException(status, "told")

    @app.websocket("/ws/{how}")
    async def talk(socket: WebSocket, how: str) -> None:
        await socket.accept()
        while how == "echo":
            await socket.send_text(await socket.receive_text())
        if how != "return":
            fail(how)

    return app


def deploy(name: str) -> None:
    """Serve all, under names that begin with `name`."""
    one = {"num_cpus": 0}

    def make(part: str, target: Any, *args: Any, **config: Any) -> None:
        tag = f"{name}-{part}"
        serve.create_backend(tag, target, *args, ray_actor_options=one, config=QUICK | config)
        serve.create_endpoint(tag, backend=tag, route=f"/{tag}", methods=["GET", "POST"])

    make("plain", Plain, num_replicas=1)
    make("twice", Plain, num_replicas=2, handler_threads=4)
    make("inner", Caller, name, "")
    make("outer", Caller, name, f"{name}-inner")
    make("tight", rest, max_concurrent_queries=1, max_queued_queries=2)
    make("impatient", rest, max_concurrent_queries=1, queue_timeout_s=0.2)
    make("mortal", die, num_replicas=3)
    for part in ("batched", "batched-failing"):
        make(part, answer_batch, max_batch_size=8, batch_wait_timeout=0.002)
    make("app", make_app())
    serve.delete_endpoint(f"{name}-app")
    serve.create_endpoint(f"{name}-app", backend=f"{name}-app", route=f"/{name}-app")
