"""A call that no replica ran has one access record all the same: of the replica that had it and did
not begin, or of the one that made it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

import serve
from observability.instrument.context import RequestContext, request_context
from serve.call import Call
from serve.errors import ReplicaDiedError
from serve.handle.replicas import Replicas
from serve.handle.untold import Reason, record_untold_calls
from serve.records import BackendTargets, ReplicaAddress
from serve.transport.callfuture import CallFuture
from serve.transport.client import Connection, connect
from serve.transport.server import CallServer
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records
from tests.integration.relay import Relay

SECRET = b"s" * 32
Told = list[tuple[str, Reason]]


class Below:
    """What is called: takes one at a time, or blocks its loop."""

    async def __call__(self, request: Any) -> Any:
        if "block" in request.query_params:
            Path(request.query_params["mark"]).touch()
            time.sleep(600)
        if "until" in request.query_params:
            Path(request.query_params["mark"]).touch()
            while not Path(request.query_params["until"]).exists():
                await asyncio.sleep(0.01)
        if "die" in request.query_params:
            os._exit(3)
        return os.getpid()


@ray.remote(num_cpus=0)
def slow() -> None:
    time.sleep(600)


@ray.remote(num_cpus=0)
def broken() -> None:
    raise ValueError("no data")


class Above:
    """Calls, and does not wait for the answer."""

    async def __call__(self, request: Any) -> str:
        asked = dict(request.query_params)
        how, below = asked.pop("how"), asked.pop("below")
        handle = serve.get_handle(below, sync=False, missing_ok=True)
        try:
            return str(await getattr(self, f"_{how}")(handle, asked))
        except Exception as error:  # noqa: BLE001 - whoever asked wants to know
            return type(error).__name__

    @serve.expose
    def blocking(self, request: Any) -> str:
        handle = serve.get_handle(request.query_params["below"])
        return str(handle.call().cancel())

    async def _cancelled(self, handle: Any, asked: dict[str, Any]) -> bool:
        response = handle.call(**asked)
        cancelled: bool = response.cancel()
        return cancelled

    async def _second_cancelled(self, handle: Any, asked: dict[str, Any]) -> None:
        first, second = handle.call(**asked), handle.call()
        await asyncio.sleep(0)
        second.cancel()
        Path(asked["until"]).touch()
        await first

    async def _waited(self, handle: Any, asked: dict[str, Any]) -> None:
        await asyncio.wait_for(handle.call(**asked), 0.2)

    async def _reference(self, handle: Any, asked: dict[str, Any]) -> None:
        await asyncio.wait_for(handle.call(slow.remote()), 0.2)

    async def _broken(self, handle: Any, asked: dict[str, Any]) -> None:
        await handle.call(broken.remote())

    async def _unsendable(self, handle: Any, asked: dict[str, Any]) -> None:
        await handle.call(i for i in "x")

    async def _remote_broken(self, handle: Any, asked: dict[str, Any]) -> None:
        await (await handle.remote(broken.remote()))

    async def _remote_unsendable(self, handle: Any, asked: dict[str, Any]) -> None:
        await (await handle.remote(i for i in "x"))

    async def _remote_cancelled(self, handle: Any, asked: dict[str, Any]) -> None:
        reference = await handle.remote(slow.remote())
        ray.cancel(reference)
        await reference

    async def _remote(self, handle: Any, asked: dict[str, Any]) -> int:
        pid: int = await (await handle.remote(**asked))
        return pid


def calls_of(request_id: str, count: int = 1) -> list[dict[str, Any]]:
    """Records of the calls that a request made; those of one that is doubled have time to come."""

    def find() -> list[dict[str, Any]]:
        return read_records(
            lambda r: (
                r["kind"] == "access"
                and r.get("request_id") == request_id
                and r["way"] in ("call", "remote")
            )
        )

    wait_until(lambda: len(find()) >= count)
    time.sleep(0.5)
    return find()


@pytest.fixture(scope="module")
def above(keep: Deploy) -> str:
    return keep(Above, route="/untold_above")


@pytest.fixture(scope="module")
def below(keep: Deploy) -> str:
    return keep(Below, max_concurrent_queries=1)


@pytest.fixture
def full(below: str, tmp_path: Path) -> Iterator[None]:
    """The one replica of `below` has what it takes."""
    call = serve.get_handle(below).call(until=str(tmp_path / "go"), mark=str(tmp_path / "mark"))
    wait_until((tmp_path / "mark").exists)
    yield
    (tmp_path / "go").touch()
    call.result(60)


def ask(instance: Instance, request_id: str, method: str = "", **asked: str) -> str:
    headers = {"X-Request-ID": request_id} | ({"X-Serve-Call-Method": method} if method else {})
    return instance.http.get("/untold_above", params=asked, headers=headers).text


@pytest.mark.parametrize(
    ("how", "answer", "status", "error"),
    [
        ("cancelled", "True", 499, "caller_gone"),
        ("reference", "TimeoutError", 499, "caller_gone"),
        ("broken", "RayTaskError(ValueError)", 400, "not_sendable"),
        ("unsendable", "MessageError", 400, "not_sendable"),
        ("remote_broken", "RayTaskError(ValueError)", 400, "not_sendable"),
        ("remote_unsendable", "TypeError", 400, "not_sendable"),
        ("remote_cancelled", "TaskCancelledError", 499, "caller_gone"),
    ],
)
def test_a_call_that_did_not_begin_has_one_record(
    shared_instance: Instance,
    above: str,
    below: str,
    how: str,
    answer: str,
    status: int,
    error: str,
) -> None:
    request_id = f"untold-{how}"
    assert ask(shared_instance, request_id, how=how, below=below) == answer
    (record,) = calls_of(request_id)
    assert (record["status"], record["error"]) == (status, error)
    way = "remote" if how.startswith("remote") else "call"
    assert (record["endpoint"], record["way"]) == (below, way)
    (caller,) = read_records(lambda r: r.get("way") == "http" and r["request_id"] == request_id)
    assert record["parent_id"] == caller["span_id"]


@pytest.mark.parametrize("how", ["cancelled", "waited"])
@pytest.mark.usefixtures("full")
def test_a_call_that_waited_for_a_replica_when_its_caller_gave_up_has_one_record(
    shared_instance: Instance, above: str, below: str, how: str
) -> None:
    request_id = f"untold-queue-{how}"
    ask(shared_instance, request_id, how=how, below=below)
    (record,) = calls_of(request_id)
    assert (record["status"], record["error"]) == (499, "caller_gone")
    assert record["replica"].startswith(f"{below}#")  # it waited there, for a driver's call


def test_a_call_that_waited_behind_its_siblings_when_it_was_cancelled_has_one_record(
    shared_instance: Instance, above: str, below: str, tmp_path: Path
) -> None:
    go, mark = str(tmp_path / "go"), str(tmp_path / "mark")
    ask(shared_instance, "untold-sibling", how="second_cancelled", below=below, until=go, mark=mark)
    cancelled, answered = sorted(calls_of("untold-sibling", 2), key=lambda r: -r["status"])
    assert (cancelled["status"], cancelled["error"]) == (499, "caller_gone")
    assert (cancelled["backend"], "replica" in cancelled) == (below, False)
    assert answered["status"] == 200


@pytest.mark.parametrize("how", ["cancelled", "waited"])
def test_a_call_to_what_does_not_exist_yet_has_one_record(
    shared_instance: Instance, above: str, how: str
) -> None:
    request_id = f"untold-nowhere-{how}"
    ask(shared_instance, request_id, how=how, below="nowhere")
    (record,) = calls_of(request_id)
    assert (record["status"], record["error"]) == (499, "caller_gone")
    assert record["endpoint"] == "nowhere"
    assert "replica" not in record


def test_a_processs_very_first_call_has_one_record_if_it_is_cancelled_at_once(
    shared_instance: Instance, below: str, keep: Deploy
) -> None:
    fresh = keep(Above, route="/untold_fresh")
    answer = shared_instance.http.get(
        "/untold_fresh",
        params={"how": "cancelled", "below": below},
        headers={"X-Request-ID": "untold-first"},
    )
    assert answer.text == "True", fresh
    (record,) = calls_of("untold-first")
    assert (record["status"], record["error"]) == (499, "caller_gone")


def test_a_call_from_blocking_code_that_is_cancelled_at_once_has_one_record(
    shared_instance: Instance, above: str, below: str
) -> None:
    assert ask(shared_instance, "untold-blocking", "blocking", below=below) == "True"
    (record,) = calls_of("untold-blocking")
    assert (record["status"], record["error"]) == (499, "caller_gone")


@pytest.mark.parametrize("is_blocking", [False, True])
async def test_a_drivers_call_that_is_cancelled_at_once_is_told_by_the_replica(
    below: str, is_blocking: bool, tmp_path: Path
) -> None:
    """Whether its code has begun or not."""
    asked = {"until": str(tmp_path / "never"), "mark": str(tmp_path / "mark")}
    request_id = f"untold-driver-{is_blocking}"
    handle = serve.get_handle(below, sync=is_blocking)

    def call() -> None:
        request_context.set(RequestContext(request_id))
        assert handle.call(**asked).cancel()

    if is_blocking:
        await asyncio.to_thread(lambda: handle.call().result(60))  # it is connected
        await asyncio.to_thread(call)
    else:
        await handle.call()
        call()
        await asyncio.sleep(0)
    (record,) = await asyncio.to_thread(calls_of, request_id)
    assert (record["status"], record["error"]) == (499, "caller_gone")
    assert record["replica"].startswith(f"{below}#")


def test_a_cancelled_call_whose_replica_never_heard_of_that_has_one_record(
    shared_instance: Instance, above: str, keep: Deploy, tmp_path: Path
) -> None:
    """Its loop is blocked, and it is killed."""
    blocked = keep(Below)
    pid = serve.get_handle(blocked).call().result(60)
    serve.get_handle(blocked).call(block="1", mark=str(tmp_path / "mark"))
    wait_until((tmp_path / "mark").exists)
    assert ask(shared_instance, "untold-unheard", how="waited", below=blocked) == "TimeoutError"
    os.kill(pid, signal.SIGKILL)
    (record,) = calls_of("untold-unheard")
    assert (record["status"], record["error"]) == (499, "caller_gone")


def test_an_actor_call_whose_replica_is_gone_for_good_has_one_record(
    shared_instance: Instance, above: str, keep: Deploy, tmp_path: Path
) -> None:
    gone = keep(Below)
    request_id = "untold-remote-gone"
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(
            ask,
            shared_instance,
            request_id,
            how="remote",
            below=gone,
            until=str(tmp_path / "never"),
            mark=str(tmp_path / "mark"),
        )
        wait_until((tmp_path / "mark").exists)
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if f"{gone}#" in actor["name"]:
                ray.kill(ray.get_actor(**actor))
        assert "ActorDiedError" in asking.result(60)
    (record,) = calls_of(request_id)
    assert (record["status"], record["error"], record["way"]) == (502, "replica_died", "remote")
    assert record["backend"] == gone


# A connection that is lost, without Ray.


@pytest.fixture
def told() -> Iterator[Told]:
    """What this process tells of its calls."""
    told: Told = []
    record_untold_calls(
        lambda call, way, backend, reason, replica: told.append((call.method, reason))
    )
    yield told
    record_untold_calls(None)


class Station:
    """A replica's call server behind a relay, and the caller's side of it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.unrun: list[str] = []
        self.release = asyncio.Event()

    async def handle(self, message: tuple[Any, ...]) -> str:
        call = Call(*message)
        self.begun.append(call.method)
        try:
            await self.release.wait()
            return call.method
        finally:
            self.ended.append(call.method)

    def call(self, method: str) -> CallFuture:
        call = Call(None, {}, method, "endpoint", "request")
        future = CallFuture(asyncio.get_running_loop(), tuple(call))
        self.replicas.submit(future)
        return future


@pytest.fixture
async def station() -> AsyncIterator[Station]:
    station = Station()
    server = station.server = CallServer(
        station.handle, SECRET, unrun=lambda message: station.unrun.append(Call(*message).method)
    )
    bound = await server.start("127.0.0.1")
    address = ReplicaAddress("b#a", "actor", "node", "127.0.0.1", 0, bound.port, is_exposed=True)
    async with Relay().running(bound.port) as station.relay:
        address = dataclasses.replace(address, call_port=station.relay.port)

        async def dial(address: ReplicaAddress) -> Connection:
            return await connect(address, SECRET, local_node_id="other")

        targets = BackendTargets("b", (address,))
        station.replicas = Replicas(targets, dial, lambda call: None)
        yield station
        station.replicas.close()
        await server.close()


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_of_a_lost_connection_a_replica_that_lives_tells_itself(
    station: Station, told: Told
) -> None:
    running, cancelled = station.call("running"), station.call("cancelled")
    await until(lambda: len(station.begun) == 2)
    station.relay.down.is_open.clear()  # what the replica says to the cancellation is not heard
    cancelled.cancel()
    await until(lambda: station.ended == ["cancelled"])
    station.relay.cut()
    with pytest.raises(ReplicaDiedError):
        await running
    await until(lambda: len(station.ended) == 2)
    station.relay.down.is_open.set()
    await until(lambda: station.replicas.settling == 0)
    assert told == []


async def test_of_a_lost_connection_to_a_replica_that_died_the_caller_tells(
    station: Station, told: Told
) -> None:
    running, cancelled = station.call("running"), station.call("cancelled")
    await until(lambda: len(station.begun) == 2)
    station.relay.down.is_open.clear()
    cancelled.cancel()
    await until(lambda: station.ended == ["cancelled"])
    station.relay.refuse()
    station.relay.cut()
    with pytest.raises(ReplicaDiedError):
        await running
    await until(lambda: len(told) == 2)
    assert sorted(told, key=str) == [
        ("cancelled", Reason.CALLER_GONE),
        ("running", Reason.REPLICA_DIED),
    ]
