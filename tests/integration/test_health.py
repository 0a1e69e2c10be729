"""Exits on a replica's event loop are their request's; a loop that answers nobody is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import ray
from fastapi import BackgroundTasks, FastAPI
from starlette.types import Receive, Scope, Send

import serve
from serve.controller.observed import Phase, ReplicaView
from serve.status import describe
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import is_alive, wait_until
from tests.integration.records import Record, read_records
from tests.integration.samples import QUICK

pytestmark = pytest.mark.slow

Leave = Callable[[], Coroutine[Any, Any, object]]


def make_ways() -> dict[str, Leave]:
    """Ways to exit that go through the loop. Made in the replica: functions travel by value."""

    async def leave() -> None:
        await asyncio.sleep(0)
        sys.exit("no thanks")

    async def interrupt() -> None:
        raise KeyboardInterrupt("no thanks")

    async def in_task() -> None:
        await asyncio.create_task(leave())

    async def in_interrupted_task() -> None:
        await asyncio.create_task(interrupt())

    async def in_gather() -> None:
        await asyncio.gather(asyncio.sleep(600), leave())

    async def in_wait_for() -> None:
        await asyncio.wait_for(leave(), 600)

    async def in_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 600)
            group.start_soon(leave)

    async def in_asyncio_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(600))
            group.create_task(leave())

    ways = [in_task, in_interrupted_task, in_gather, in_wait_for, in_group]
    if sys.version_info >= (3, 11):
        ways.append(in_asyncio_group)
    return {way.__name__: way for way in ways}


WAYS = list(make_ways())


def make_app() -> FastAPI:
    """An application behind a middleware, which runs its routes in a task of their own."""
    app = FastAPI()

    @app.middleware("http")
    async def pass_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    @app.get("/pid")
    async def pid() -> int:
        return os.getpid()

    @app.get("/exit")
    async def leave() -> None:
        sys.exit(1)

    @app.get("/background")
    async def background(tasks: BackgroundTasks) -> int:
        tasks.add_task(sys.exit, 1)
        return os.getpid()

    return app


class Exits:
    """Exits in a way that is asked for, and tells its process."""

    def __init__(self) -> None:
        self._ways = make_ways()

    async def __call__(self, request: Any) -> None:
        await self._ways[(await request.body()).decode()]()

    async def leave(self, request: Any) -> None:
        await self._ways[request.data]()

    @serve.expose
    async def pid(self) -> int:
        return os.getpid()

    @serve.expose
    async def in_callback(self) -> int:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.add_done_callback(lambda _: sys.exit("no thanks"))
        for begin in (
            lambda: loop.call_soon(sys.exit, "no thanks"),
            lambda: loop.call_soon_threadsafe(sys.exit, "no thanks"),
            lambda: loop.call_later(0.001, sys.exit, "no thanks"),
            lambda: future.set_result(None),
        ):
            begin()
            await asyncio.sleep(0.01)
        return os.getpid()


def access_of(request_id: str) -> list[Record]:
    def is_wanted(record: Record) -> bool:
        return record["kind"] == "access" and record.get("request_id") == request_id

    return wait_until(lambda: read_records(is_wanted))


@contextlib.contextmanager
def backend(name: str, target: Any, methods: list[str], **config: Any) -> Iterator[str]:
    serve.create_backend(name, target, ray_actor_options={"num_cpus": 0}, config=QUICK | config)
    serve.create_endpoint(name, backend=name, route=f"/{name}", methods=methods)
    yield name
    serve.delete_endpoint(name)
    serve.delete_backend(name, force=True)


@pytest.fixture(scope="module")
def app(shared_instance: Instance) -> Iterator[str]:
    with backend("app", make_app(), ["GET"]) as name:
        yield name


@pytest.fixture(scope="module")
def exits(shared_instance: Instance) -> Iterator[str]:
    with backend("exits", Exits, ["POST"]) as name:
        yield name


def ask_pid(name: str) -> Any:
    return serve.get_handle(name).options(method_name="pid").call().result(60)


def test_an_exit_behind_a_middleware_is_one_500_and_the_replica_goes_on(
    app: str, shared_instance: Instance
) -> None:
    http = shared_instance.http
    pid = http.get("/app/pid").json()
    failed = http.get("/app/exit")
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert http.get("/app/background").json() == pid
    assert http.get("/app/pid").json() == pid
    (record,) = access_of(failed.headers["x-request-id"])
    assert record["status"] == 500
    assert "SystemExit: 1" in record["error"]


@pytest.mark.parametrize("way", WAYS)
def test_an_exit_in_a_task_of_an_http_request_is_its_500_and_one_record(
    exits: str, shared_instance: Instance, way: str
) -> None:
    pid = ask_pid(exits)
    failed = shared_instance.http.post("/exits", content=way)
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    (record,) = access_of(failed.headers["x-request-id"])
    assert record["status"] == 500
    assert "no thanks" in record["error"]
    assert ask_pid(exits) == pid


@pytest.mark.parametrize("by", ["call", "remote"])
@pytest.mark.parametrize("way", WAYS)
def test_an_exit_in_a_task_of_a_call_is_its_callers_error(exits: str, way: str, by: str) -> None:
    pid = ask_pid(exits)
    handle = serve.get_handle(exits).options(method_name="leave")
    with pytest.raises(serve.RayServeException, match="no thanks"):
        if by == "call":
            handle.call(way).result(60)
        else:
            ray.get(handle.remote(way), timeout=60)
    assert ask_pid(exits) == pid


def test_an_exit_in_a_callback_is_told_and_harms_nobody(exits: str) -> None:
    pid = ask_pid(exits)
    handle = serve.get_handle(exits).options(method_name="in_callback")
    assert handle.call().result(60) == pid
    assert ask_pid(exits) == pid

    def is_told(record: Record) -> bool:
        text = record.get("exception", "")
        return (
            record["kind"] == "log"
            and record.get("backend") == exits
            and ("SystemExit: no thanks" in text and "the event loop goes on" in record["message"])
        )

    wait_until(lambda: len(read_records(is_told)) == 4)


class Bare:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sys.exit("no licence")


def test_an_exit_at_an_applications_start_up_fails_the_create_and_says_so(
    shared_instance: Instance,
) -> None:
    @asynccontextmanager
    async def fail(app: FastAPI) -> Any:
        sys.exit("no licence")
        yield

    for target in (Bare(), FastAPI(lifespan=fail)):
        with pytest.raises(serve.BackendStartError, match="no licence"):
            serve.create_backend("unlicensed", target, ray_actor_options={"num_cpus": 0})


class Unlicensed:
    def __init__(self, at: str) -> None:
        if at == "constructor":
            sys.exit("no licence")

    def reconfigure(self, config: Any) -> None:
        if config == "bad":
            sys.exit("no licence")

    async def __call__(self, request: Any) -> int:
        return os.getpid()


def test_an_exit_in_a_constructor_fails_the_create_and_says_so(shared_instance: Instance) -> None:
    with pytest.raises(serve.BackendStartError, match="no licence"):
        serve.create_backend(
            "unlicensed", Unlicensed, "constructor", ray_actor_options={"num_cpus": 0}
        )


def test_an_exit_in_reconfigure_fails_the_update_and_the_replica_goes_on(deploy: Deploy) -> None:
    name = deploy(Unlicensed, "reconfigure", user_config="good")
    pid = serve.get_handle(name).call().result(60)
    with pytest.raises(serve.BackendStartError, match="no licence"):
        serve.update_backend_config(name, {"user_config": "bad"})
    assert serve.get_handle(name).call().result(60) == pid


# A loop that answers nobody.

IMPATIENT = {"health_check_period_s": 0.1, "health_check_timeout_s": 2.0}


class Blocks:
    """Does what ails an event loop, in an `async` method as an unwary author writes it."""

    async def __call__(self, request: Any) -> dict[str, Any]:
        return {"pid": os.getpid(), "tag": serve.get_current_replica_tag()}

    async def block(self, request: Any) -> None:
        time.sleep(600)

    async def end_loop(self, request: Any) -> None:
        asyncio.get_running_loop().stop()

    async def freeze(self, request: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


def views_of(name: str) -> list[ReplicaView]:
    views = serve.connect().status().observed.replicas.values()
    return [view for view in views if view.backend_tag == name]


def troubles_until(name: str, is_over: Callable[[], bool]) -> set[str]:
    """What was shown to be wrong with a backend's replicas meanwhile."""
    troubles: set[str] = set()

    def look() -> bool:
        troubles.update(view.trouble for view in views_of(name))
        return is_over()

    wait_until(look, 120)
    return troubles


def is_about(name: str, text: str) -> Callable[[Record], bool]:
    return lambda record: text in record.get("message", "") and name in str(record)


@pytest.mark.parametrize("ailment", ["block", "end_loop", "freeze"])
def test_a_replica_whose_loop_does_not_answer_is_seen_told_and_replaced(
    deploy: Deploy, ailment: str
) -> None:
    name = deploy(Blocks, **IMPATIENT)
    handle = serve.get_handle(name)
    before = handle.call().result(60)
    lost = handle.options(method_name=ailment).call()
    shown = troubles_until(name, lambda: [v.restarts for v in views_of(name)] == [1])
    assert any(trouble.startswith("unresponsive since 20") for trouble in shown)
    with contextlib.suppress(serve.ReplicaDiedError):  # of a block; the others may answer just yet
        lost.result(60)
    after = handle.call().result(60)
    assert after["tag"] == before["tag"]
    assert after["pid"] != before["pid"]
    assert not is_alive(before["pid"])
    told = wait_until(lambda: read_records(is_about(name, "does not answer its health check")))
    assert len(told) == 1
    assert (told[0]["level"], told[0]["component"]) == ("ERROR", "controller")
    assert "within 2 s (health_check_timeout_s)" in told[0]["message"]
    wait_until(lambda: describe(serve.connect().status(), "")["healthy"])


def test_traffic_goes_to_the_other_replica_meanwhile(
    deploy: Deploy, shared_instance: Instance
) -> None:
    name = deploy(Blocks, num_replicas=2, route="/meanwhile", **IMPATIENT)
    handle = serve.get_handle(name)
    lost = handle.options(method_name="freeze").call()
    wait_until(lambda: any(view.phase is Phase.UNRESPONSIVE for view in views_of(name)), 120)
    # Published before it is ended: who asks from now on is answered by the other one.
    wait_until(lambda: shared_instance.http.get("/meanwhile", timeout=60).status_code == 200)
    assert handle.call().result(60)["tag"]
    with contextlib.suppress(serve.ReplicaDiedError):
        lost.result(60)
    wait_until(lambda: [v.phase for v in views_of(name)] == [Phase.RUNNING] * 2, 120)


def test_where_a_blocking_call_holds_the_loop_is_in_the_records(deploy: Deploy) -> None:
    name = deploy(Blocks)
    lost = serve.get_handle(name).options(method_name="block").call()
    told = wait_until(lambda: read_records(is_about(name, "The event loop is blocked for 5.0 s")))
    (record,) = told
    assert record["level"] == "ERROR"
    assert record["file"] == "test_health.py"
    assert "in block" in record["exception"] and "time.sleep(600)" in record["exception"]
    serve.update_backend_config(name, {"health_check_timeout_s": 1})  # does not wait for the block
    with pytest.raises(serve.ReplicaDiedError):
        lost.result(60)
    assert [view.restarts for view in views_of(name)] == [1]
    assert serve.get_backend_config(name).health_check_timeout_s == 1


def test_a_blocking_handler_runs_in_a_thread_and_harms_nobody(deploy: Deploy) -> None:
    name = deploy(Patient, **IMPATIENT)
    handle = serve.get_handle(name)
    assert handle.call(5.0).result(60) == handle.call(0.0).result(60)
    assert [view.restarts for view in views_of(name)] == [0]


def test_a_constructor_and_a_reconfigure_may_block_the_loop_for_longer(deploy: Deploy) -> None:
    name = deploy(SlowAtTheLoop, user_config=4.0, **IMPATIENT)
    pid = serve.get_handle(name).call().result(60)
    serve.update_backend_config(name, {"user_config": 5.0})
    assert serve.get_handle(name).call().result(60) == pid
    assert [view.restarts for view in views_of(name)] == [0]


class Patient:
    def __call__(self, request: Any) -> int:
        time.sleep(request.data or 0)
        return os.getpid()


class SlowAtTheLoop:
    def __init__(self) -> None:
        time.sleep(4)

    async def reconfigure(self, seconds: float) -> None:
        time.sleep(seconds)

    async def __call__(self, request: Any) -> int:
        return os.getpid()
