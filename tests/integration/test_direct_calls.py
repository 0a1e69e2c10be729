"""`handle.call()`: awaiting, waiting, cancelling; loops and threads; queues; the secret."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import RayTaskError

import serve
from serve.handle.handle import RayServeSyncHandle
from serve.records import ReplicaAddress
from serve.transport.auth import HELLO_BYTES, AuthError
from serve.transport.client import connect
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import run_script, wait_until
from tests.integration.samples import Busy


class Mishap(Exception):
    """An exception of the user's own, which needs two arguments to be made."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code


class Unbuildable(Exception):
    """An exception that pickles and can't be unpickled."""

    def __init__(self, *, what: str) -> None:
        super().__init__(what)


class Toolbox:
    def __init__(self) -> None:
        self._begun: list[str] = []
        self._ended: list[str] = []
        self._here = 0

    async def __call__(self, request: Any) -> Any:
        return request.data

    async def type_name(self, request: Any) -> str:
        return type(request.data).__name__

    async def facts(self, request: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
        return request.method, dict(request.headers), dict(request.query_params)

    async def fail(self, request: Any) -> None:
        raise Mishap("of the user's own", 7)

    async def fail_unbuildable(self, request: Any) -> None:
        raise Unbuildable(what="strange")

    async def fail_timeout(self, request: Any) -> None:
        raise TimeoutError("the backend's own")

    def fail_blocking(self, request: Any) -> None:
        raise Mishap("blocking", 8)

    async def pid(self, request: Any) -> int:
        return os.getpid()

    def exit(self, request: Any) -> None:
        raise SystemExit("no thanks")

    async def interrupt(self, request: Any) -> None:
        raise KeyboardInterrupt("no thanks")

    @serve.accept_batch
    def exit_batch(self, requests: list[Any]) -> None:
        raise SystemExit("no thanks")

    async def total(self, request: Any) -> float:
        return float(request.data.sum())

    async def meet(self, request: Any) -> str:
        """Nobody leaves before so many are here."""
        self._here += 1
        while self._here < request.data:
            await asyncio.sleep(0.01)
        return "met"

    async def nap(self, request: Any) -> str:
        seconds, name = request.data
        self._begun.append(name)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self._ended.append(name)
            raise
        return "rested"

    async def wait_until(self, request: Any) -> str:
        while not Path(request.data).exists():
            await asyncio.sleep(0.01)
        return "let go"

    async def begun(self, request: Any) -> list[str]:
        return self._begun

    async def ended(self, request: Any) -> list[str]:
        return self._ended


async def hold(request: Any) -> int:
    await asyncio.sleep(request.data)
    return os.getpid()


@pytest.fixture(scope="module")
def toolbox(shared_instance: Instance) -> Iterator[RayServeSyncHandle]:
    """A handle to a backend that has a method for each question."""
    serve.create_backend(
        "toolbox",
        Toolbox,
        ray_actor_options={"num_cpus": 0},
        config={"max_concurrent_queries": 1000},
    )
    serve.create_endpoint("toolbox", backend="toolbox")
    yield serve.get_handle("toolbox")


# The answer.


def test_result_waits_for_the_answer(toolbox: RayServeSyncHandle) -> None:
    assert toolbox.call({"a": 1}).result() == {"a": 1}


async def test_an_answer_is_awaited(toolbox: RayServeSyncHandle) -> None:
    assert await toolbox.call([1, 2]) == [1, 2]


async def test_many_calls_are_in_flight_at_once(toolbox: RayServeSyncHandle) -> None:
    meet = toolbox.options(method_name="meet")
    answers = await asyncio.gather(*(meet.call(300) for _ in range(300)))
    assert answers == ["met"] * 300


def test_a_response_knows_whether_it_is_done(toolbox: RayServeSyncHandle, tmp_path: Path) -> None:
    response = toolbox.options(method_name="wait_until").call(str(tmp_path / "go"))
    assert not response.done()
    (tmp_path / "go").touch()
    response.result(60)
    assert response.done()


def test_a_result_can_be_asked_for_twice(toolbox: RayServeSyncHandle) -> None:
    response = toolbox.call("again")
    assert response.result(60) == response.result(60) == "again"


async def test_result_on_an_event_loop_says_to_await(toolbox: RayServeSyncHandle) -> None:
    response = toolbox.call(1)
    with pytest.raises(serve.RayServeException, match=r"'await' it"):
        response.result(1)
    assert await response == 1


def test_result_gives_up_after_its_timeout_and_the_call_goes_on(
    toolbox: RayServeSyncHandle, tmp_path: Path
) -> None:
    response = toolbox.options(method_name="wait_until").call(str(tmp_path / "go"))
    with pytest.raises(TimeoutError, match=r"toolbox.wait_until gave no answer within 0\.05 s"):
        response.result(timeout_s=0.05)
    (tmp_path / "go").touch()
    assert response.result(60) == "let go"


def test_the_backends_own_timeout_error_is_not_taken_for_ours(toolbox: RayServeSyncHandle) -> None:
    with pytest.raises(TimeoutError, match="the backend's own"):
        toolbox.options(method_name="fail_timeout").call().result(60)


async def test_options_and_keyword_arguments_reach_the_handler(
    toolbox: RayServeSyncHandle,
) -> None:
    handle = toolbox.options(
        method_name="facts", http_method="PUT", http_headers={"A": "b"}, shard_key="k"
    )
    method, headers, query = await handle.call(None, count=1, many=[1, "2"])
    assert method == "PUT"
    assert headers == {"X-Serve-Call-Method": "facts", "X-Serve-Shard-Key": "k", "A": "b"}
    assert query == {"count": 1, "many": [1, "2"]}


# Errors.


@pytest.mark.parametrize("method", ["fail", "fail_blocking"])
def test_a_users_exception_is_a_ray_task_error_and_its_own_type(
    toolbox: RayServeSyncHandle, method: str
) -> None:
    with pytest.raises(Mishap) as caught:
        toolbox.options(method_name=method).call().result(60)
    assert isinstance(caught.value, RayTaskError)
    assert caught.value.code in (7, 8)
    assert f"in {method}" in str(caught.value)  # the replica's traceback


async def test_a_users_exception_is_the_same_when_awaited(toolbox: RayServeSyncHandle) -> None:
    with pytest.raises(Mishap) as caught:
        await toolbox.options(method_name="fail").call()
    assert isinstance(caught.value, RayTaskError)


def test_call_and_remote_raise_alike(toolbox: RayServeSyncHandle) -> None:
    handle = toolbox.options(method_name="fail")
    with pytest.raises(Mishap) as by_call:
        handle.call().result(60)
    with pytest.raises(Mishap) as by_remote:
        ray.get(handle.remote())
    assert type(by_call.value).__name__ == type(by_remote.value).__name__
    assert by_call.value.cause.args == by_remote.value.cause.args  # type: ignore[attr-defined]


def test_an_exception_that_cannot_travel_arrives_as_its_text(toolbox: RayServeSyncHandle) -> None:
    with pytest.raises(serve.RayServeException, match="Unbuildable: strange"):
        toolbox.options(method_name="fail_unbuildable").call().result(60)


@pytest.mark.parametrize("way", ["call", "remote"])
@pytest.mark.parametrize(
    ("method", "kind"),
    [("exit", "SystemExit"), ("exit_batch", "SystemExit"), ("interrupt", "KeyboardInterrupt")],
)
def test_an_exit_in_a_handler_is_the_callers_error_and_the_replica_goes_on(
    toolbox: RayServeSyncHandle, method: str, kind: str, way: str
) -> None:
    before = toolbox.options(method_name="pid").call().result(60)
    handle = toolbox.options(method_name=method)
    with pytest.raises(serve.RayServeException, match=f"{kind}: no thanks"):
        if way == "call":
            handle.call().result(60)
        else:
            ray.get(handle.remote(), timeout=60)
    assert toolbox.options(method_name="pid").call().result(60) == before


def test_a_missing_method_names_the_methods_there_are(toolbox: RayServeSyncHandle) -> None:
    with pytest.raises(serve.RayServeException, match=r"method nope .*\['__call__', .*'facts'"):
        toolbox.options(method_name="nope").call().result(60)


def test_what_cannot_be_pickled_is_refused_at_the_call(toolbox: RayServeSyncHandle) -> None:
    with pytest.raises(serve.RayServeException, match="pickle"):
        toolbox.call(threading.Lock()).result(60)


def test_an_endpoint_that_never_comes_fails_after_five_seconds(
    toolbox: RayServeSyncHandle,
) -> None:
    handle = serve.get_handle("never", missing_ok=True)
    started = time.monotonic()
    with pytest.raises(
        serve.RayServeException, match=r"Endpoint never doesn't exist after 5s timeout"
    ):
        handle.call().result(60)
    assert time.monotonic() - started > 4.5


def test_a_call_waits_for_an_endpoint_that_appears_meanwhile(
    toolbox: RayServeSyncHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.handle.router.UNKNOWN_ENDPOINT_S", 60.0)
    response = serve.get_handle("late_call", missing_ok=True).call("here")
    time.sleep(0.2)
    serve.create_endpoint("late_call", backend="toolbox")
    assert response.result(60) == "here"
    serve.delete_endpoint("late_call")


# References and arrays.


def test_an_object_ref_is_resolved_by_call(toolbox: RayServeSyncHandle) -> None:
    assert toolbox.call(ray.put([1, 2])).result(60) == [1, 2]


async def test_an_answer_of_remote_feeds_an_awaited_call(toolbox: RayServeSyncHandle) -> None:
    assert await toolbox.call(toolbox.remote("through both")) == "through both"


def test_a_reference_to_an_error_is_the_callers_error(toolbox: RayServeSyncHandle) -> None:
    failed = toolbox.options(method_name="fail").remote()
    with pytest.raises(Mishap):
        toolbox.call(failed).result(60)


async def test_fifty_megabytes_of_array_go_there_quickly(toolbox: RayServeSyncHandle) -> None:
    array = np.ones(50_000_000 // 8)
    total = toolbox.options(method_name="total")
    await total.call(array[:10])
    deadline = time.monotonic() + 60
    took_s = math.inf
    while took_s > 1.5:  # pickled and copied: about as much again; the machine may be slow for once
        started = time.monotonic()
        assert started < deadline, f"{took_s} s"
        assert await total.call(array) == array.size
        took_s = time.monotonic() - started


async def test_an_array_comes_back_as_it_was_and_can_be_written(
    toolbox: RayServeSyncHandle,
) -> None:
    array = np.arange(6_000_000, dtype=np.float64)
    back = await toolbox.call({"array": array})
    assert np.array_equal(back["array"], array)
    back["array"][0] = 5  # its own memory
    assert array[0] == 0


# Cancelling.


async def test_cancel_ends_the_handler_at_the_replica(toolbox: RayServeSyncHandle) -> None:
    response = toolbox.options(method_name="nap").call((60, "awaited"))
    await until_named(toolbox, "begun", "awaited")
    assert response.cancel()
    with pytest.raises(asyncio.CancelledError):
        await response
    await until_named(toolbox, "ended", "awaited")


async def until_named(toolbox: RayServeSyncHandle, method: str, name: str) -> None:
    """Return when the nap of this name has begun, or ended."""
    asked = toolbox.options(method_name=method)
    deadline = time.monotonic() + 60
    while name not in await asked.call():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_cancel_from_blocking_code_ends_the_handler_too(toolbox: RayServeSyncHandle) -> None:
    response = toolbox.options(method_name="nap").call((60, "blocking"))
    begun = toolbox.options(method_name="begun")
    wait_until(lambda: "blocking" in begun.call().result(60))
    assert response.cancel()
    ended = toolbox.options(method_name="ended")
    assert wait_until(lambda: "blocking" in ended.call().result(60))


async def test_a_cancelled_task_cancels_the_call_that_it_awaits(
    toolbox: RayServeSyncHandle,
) -> None:
    async def ask() -> None:
        await toolbox.options(method_name="nap").call((60, "task"))

    task = asyncio.create_task(ask())
    await until_named(toolbox, "begun", "task")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_named(toolbox, "ended", "task")


def test_cancelling_what_is_answered_does_nothing(toolbox: RayServeSyncHandle) -> None:
    response = toolbox.call("answered")
    assert response.result(60) == "answered"
    assert not response.cancel()
    assert response.result(60) == "answered"


def test_a_cancelled_call_gives_its_place_to_the_next(held_single: str, tmp_path: Path) -> None:
    change_queue(held_single)
    handle = serve.get_handle(held_single)
    handle.call().result(60)
    first, second = handle.call(str(tmp_path / "never")), handle.call()
    time.sleep(0.1)
    assert not second.done()
    first.cancel()
    assert second.result(60)


def test_a_call_cancelled_while_it_waits_is_never_run(deploy: Deploy, tmp_path: Path) -> None:
    handle = serve.get_handle(deploy(Counter, max_concurrent_queries=1))
    slow = handle.call(str(tmp_path / "go"))
    waiting = handle.call(str(tmp_path))
    waiting.cancel()
    (tmp_path / "go").touch()
    slow.result(60)
    assert handle.options(method_name="count").call().result(60) == 1


class Counter:
    def __init__(self) -> None:
        self._count = 0

    async def __call__(self, request: Any) -> None:
        self._count += 1
        while not Path(request.data).exists():
            await asyncio.sleep(0.01)

    async def count(self, request: Any) -> int:
        return self._count


# Loops and threads.


def test_several_threads_call_at_once(toolbox: RayServeSyncHandle) -> None:
    def ask(number: int) -> list[int]:
        return [toolbox.call(number * 100 + i).result(60) for i in range(50)]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert answers == [[n * 100 + i for i in range(50)] for n in range(6)]


def test_a_handle_outlives_many_event_loops(toolbox: RayServeSyncHandle) -> None:
    async def ask() -> object:
        return await toolbox.call("loop")

    for _ in range(10):
        assert asyncio.run(ask()) == "loop"
    gc.collect()  # a connection left open would warn here, and warnings are errors


def test_an_event_loop_that_ended_is_let_go(toolbox: RayServeSyncHandle) -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def ask() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await toolbox.call("loop")

    asyncio.run(ask())
    gc.collect()
    assert loops[0]() is None


def test_two_loops_in_two_threads_call_at_once(toolbox: RayServeSyncHandle) -> None:
    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(toolbox.call(i) for i in range(100))))

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: asyncio.run(ask()), range(2)))
    assert answers == [list(range(100))] * 2


def test_a_script_with_many_loops_ends_without_a_word(
    toolbox: RayServeSyncHandle, ray_address: str
) -> None:
    done = run_script(
        """
        import asyncio, sys, warnings
        import ray
        import serve
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        warnings.simplefilter("always")
        handle = serve.get_handle("toolbox")

        async def ask():
            nap = handle.options(method_name="nap")
            left = nap.call((60, "left behind"))  # in flight when the loop ends
            return await handle.call(1)

        print([asyncio.run(ask()) for _ in range(3)], handle.call(2).result(60))
        """,
        ray_address,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1, 1, 1] 2"
    assert done.stderr == ""


# After the end.


def test_calls_that_wait_when_the_instance_ends_fail_at_once(
    ray_address: str, tmp_path: Path
) -> None:
    done = run_script(
        """
        import asyncio, os, sys, time
        import ray
        import serve
        import serve.handle.router
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        serve.start(http_options={"location": "NoServer"})
        begun = sys.argv[2]

        async def hold(request):
            open(begun, "w").close()
            await asyncio.sleep(600)

        options = {"num_cpus": 0}
        serve.create_backend(
            "hold", hold, ray_actor_options=options, config={"max_concurrent_queries": 1}
        )
        serve.create_endpoint("hold", backend="hold")
        handle = serve.get_handle("hold")
        responses = [handle.call() for _ in range(3)]
        while not os.path.exists(begun):
            time.sleep(0.01)
        serve.shutdown()
        serve.handle.router.UNKNOWN_ENDPOINT_S = 600  # who waited would not see the end
        for ask in [*(lambda r=r: r.result(60) for r in responses), handle.call, handle.remote]:
            try:
                ask()
            except serve.RayServeException as error:
                print(type(error).__name__)
        """,
        ray_address,
        tmp_path / "begun",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "ReplicaDiedError",
        "ReplicaUnavailableError",
        "ReplicaUnavailableError",
        "RayServeException",
        "RayServeException",
    ]


# Limits and turns.


def test_max_concurrent_queries_holds(deploy: Deploy) -> None:
    handle = serve.get_handle(deploy(Busy, 3, max_concurrent_queries=3))
    for response in [handle.call() for _ in range(12)]:
        response.result(60)
    assert handle.options(method_name="most").call().result(60) == 3


def test_max_concurrent_queries_holds_over_call_and_remote_together(deploy: Deploy) -> None:
    handle = serve.get_handle(deploy(Busy, 2, max_concurrent_queries=2))
    references = [handle.remote() for _ in range(2)]
    responses = [handle.call() for _ in range(6)]
    ray.get(references)
    for response in responses:
        response.result(60)
    assert handle.options(method_name="most").call().result(60) == 2


def test_a_full_replica_is_skipped(held_pair: str, tmp_path: Path) -> None:
    handle = serve.get_handle(held_pair)
    slow_pid = handle.call(str(tmp_path / "go"))
    quick_pids = {handle.call().result(60) for _ in range(5)}
    assert not slow_pid.done()
    assert len(quick_pids) == 1
    (tmp_path / "go").touch()
    assert slow_pid.result(60) not in quick_pids


async def test_calls_go_round_the_replicas(held_pair: str) -> None:
    handle = serve.get_handle(held_pair)
    both: set[int] = set()
    while len(both) < 2:  # both are connected to
        both |= set(await asyncio.gather(*(handle.call() for _ in range(4))))
    pids = [await handle.call() for _ in range(6)]
    assert pids[0::2] == [pids[0]] * 3
    assert pids[1::2] == [pids[1]] * 3
    assert pids[0] != pids[1]


def test_a_full_queue_refuses_the_next_call(held_single: str, tmp_path: Path) -> None:
    change_queue(held_single, max_queued_queries=2)
    handle = serve.get_handle(held_single)
    handle.call().result(60)
    taken = [handle.call(str(tmp_path / "go")) for _ in range(3)]
    said = rf"'{held_single}' is full: 2 calls wait .*\(max_queued_queries\)"
    with pytest.raises(serve.QueueFullError, match=said):
        handle.call().result(60)
    (tmp_path / "go").touch()
    assert all(response.result(60) for response in taken)


def change_queue(backend: str, **config: float) -> None:
    """Give its queue these limits, and the defaults for the others."""
    defaults = serve.BackendConfig()
    limits = {name: getattr(defaults, name) for name in ("max_queued_queries", "queue_timeout_s")}
    serve.update_backend_config(backend, {**limits, **config})


def test_a_call_waits_no_longer_than_the_queue_timeout(held_single: str, tmp_path: Path) -> None:
    change_queue(held_single, queue_timeout_s=0.3)
    handle = serve.get_handle(held_single)
    wait_until(lambda: is_answered(handle))  # connecting takes of the wait, too
    first = handle.call(str(tmp_path / "go"))
    said = rf"'{held_single}'.*0\.3 s \(queue_timeout_s\)"
    with pytest.raises(serve.QueueTimeoutError, match=said):
        handle.call().result(60)
    (tmp_path / "go").touch()
    assert first.result(60)


def is_answered(handle: RayServeSyncHandle) -> bool:
    with contextlib.suppress(serve.QueueTimeoutError):
        return bool(handle.call().result(60))
    return False


def test_a_call_that_waits_moves_on_when_its_backend_leaves_the_traffic(
    deploy: Deploy, held_single: str, tmp_path: Path
) -> None:
    change_queue(held_single)
    full, free = held_single, deploy(free_answer)
    handle = serve.get_handle(full)
    handle.call().result(60)  # it is connected
    first, second = handle.call(str(tmp_path / "go")), handle.call()
    time.sleep(0.2)
    serve.set_traffic(full, {free: 1.0})
    assert second.result(60) == "free"
    (tmp_path / "go").touch()
    assert isinstance(first.result(60), int)  # what was in flight finishes where it is
    serve.set_traffic(full, {full: 1.0})


async def free_answer(request: Any) -> str:
    return "free"


# The secret.


async def test_a_wrong_secret_opens_no_replica(toolbox: RayServeSyncHandle) -> None:
    address = _address_of("toolbox")
    with pytest.raises(AuthError, match="belongs to another instance"):
        await connect(address, b"another secret", local_node_id=address.node_id)
    assert await toolbox.call("still") == "still"


async def test_bytes_of_a_stranger_are_never_unpickled(toolbox: RayServeSyncHandle) -> None:
    address = _address_of("toolbox")
    reader, writer = await asyncio.open_connection(address.host, address.call_port)
    writer.write(b"\x80\x05" * 200)
    await reader.readexactly(HELLO_BYTES)
    with contextlib.suppress(ConnectionResetError):  # it closes with our bytes unread
        assert await asyncio.wait_for(reader.read(), 60) == b""
    writer.close()
    assert await toolbox.call("still") == "still"


def _address_of(backend: str) -> ReplicaAddress:
    replicas = serve.connect().status().observed.replicas.values()
    address = next(view.address for view in replicas if view.backend_tag == backend)
    assert address is not None
    return address
