"""SIGKILL to the controller, replicas, HAProxy, the ingress: requests go on, all comes back."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

import serve
from serve.client import Client
from serve.controller.observed import Failure, ReplicaView
from serve.ids import NAMESPACE
from serve.transport.loopthread import get_loop_thread
from tests.integration.conftest import Deploy, Instance
from tests.integration.killing import kill_controller
from tests.integration.processes import (
    haproxies,
    is_alive,
    masters,
    parent_of,
    run_folders,
    wait_until,
)
from tests.integration.stream import Stream


async def who(request: Any) -> dict[str, Any]:
    await asyncio.sleep(0.01)
    return {"pid": os.getpid(), "tag": serve.get_current_replica_tag()}


class Configured:
    def __init__(self) -> None:
        self._config: Any = None

    def reconfigure(self, config: Any) -> None:
        self._config = config

    async def __call__(self, request: Any) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "tag": serve.get_current_replica_tag(),
            "config": self._config,
        }


class SlowToStart:
    def __init__(self, seconds: float) -> None:
        time.sleep(seconds)

    async def __call__(self, request: Any) -> str:
        return "up"


class Sabotaged:
    """Can't start while a file is there; a file with 'exit' in it ends the process."""

    def __init__(self, path: str) -> None:
        file = Path(path)
        if file.exists() and "exit" in file.read_text():
            os._exit(7)
        if file.exists():
            raise RuntimeError(f"sabotaged by {path}")

    async def __call__(self, request: Any) -> int:
        return os.getpid()


def client() -> Client:
    return serve.connect()


def replicas(backend: str) -> dict[str, ReplicaView]:
    views = client().status().observed.replicas.values()
    return {view.tag: view for view in views if view.backend_tag == backend}


def failure(backend: str) -> Failure | None:
    return client().status().observed.failures.get(backend)


def actor_names(backend: str) -> set[str]:
    """Replicas of a backend that exist as actors, whatever the controller knows of them."""
    entries = ray.util.list_named_actors(all_namespaces=True)
    names = {entry["name"] for entry in entries if entry["namespace"] == NAMESPACE}
    return {name for name in names if f":{backend}#" in name}


def ask(name: str) -> Any:
    """One answer; sent again if it met a process that was just killed."""
    while True:
        with contextlib.suppress(serve.ReplicaDiedError):
            return serve.get_handle(name).call().result(60)


@contextlib.contextmanager
def stream_of_http(instance: Instance, path: str) -> Iterator[Stream]:
    with httpx.Client(base_url=str(instance.http.base_url), timeout=20) as http:
        with Stream(lambda: http.get(path).raise_for_status()) as stream:
            yield stream


@pytest.fixture(scope="module")
def pair(keep: Deploy) -> str:
    """Two replicas of `who`, at `/pair`."""
    return keep(who, num_replicas=2, route="/pair")


@pytest.fixture(scope="module")
def single(keep: Deploy) -> str:
    """The only replica of `who`, at `/single`."""
    return keep(who, route="/single")


@pytest.fixture(scope="module")
def configured(keep: Deploy) -> str:
    return keep(Configured, user_config="first", route="/configured")


@contextlib.contextmanager
def killed_replica(backend: str) -> Iterator[dict[str, Any]]:
    """What a replica said before it was killed; at the end all see that it is back."""
    before = {view.tag: view.restarts for view in _running(backend)}
    victim = ask(backend)
    os.kill(victim["pid"], signal.SIGKILL)
    yield victim
    after = before | {victim["tag"]: before[victim["tag"]] + 1}
    wait_until(lambda: {view.tag: view.restarts for view in _running(backend)} == after)
    wait_until(lambda: _answering(lambda: ask(backend)) == after.keys())


# The controller.


@dataclass
class Kill:
    """A controller that was killed while requests came, and what was seen before and after."""

    controllers: tuple[int, int]
    states: tuple[object, object]
    processes: tuple[dict[str, int], dict[str, int]]
    streams: list[Stream]


@pytest.fixture(scope="module")
def kill(shared_instance: Instance, pair: str, single: str, configured: str) -> Kill:
    serve.shadow_traffic(configured, single, 0.5)
    handle = serve.get_handle(pair)

    def state() -> object:
        return serve.list_backends(), serve.list_endpoints()

    def processes() -> dict[str, int]:
        return wait_until(lambda: _two(handle.call().result(60) for _ in range(4)))

    with (
        stream_of_http(shared_instance, "/pair") as over_http,
        Stream(lambda: handle.call().result(60)) as direct,
        Stream(lambda: ray.get(handle.remote())) as remote,
    ):
        streams = [over_http, direct, remote]
        old_state, old_processes = state(), processes()
        old = kill_controller()
        for stream in streams:
            stream.wait_for_more(20)
        new_state, new = state(), client().status().pid  # it is back
        for stream in streams:
            stream.wait_for_more(20)
    serve.shadow_traffic(configured, single, 0)
    return Kill((old, new), (old_state, new_state), (old_processes, processes()), streams)


def test_requests_go_on_while_the_controller_is_away(kill: Kill) -> None:
    assert [stream.errors for stream in kill.streams] == [[], [], []]


def test_the_api_answers_again_within_seconds_with_the_same_state(kill: Kill) -> None:
    before, after = kill.states
    assert after == before
    assert kill.controllers[0] != kill.controllers[1]


def test_replicas_are_adopted_with_their_tags_and_processes(kill: Kill, pair: str) -> None:
    before, after = kill.processes
    assert after == before
    wait_until(lambda: len(_running(pair)) == 2)
    time.sleep(1.5)  # a step of the control loop, which could start others
    assert set(replicas(pair)) == set(before)
    assert len(actor_names(pair)) == 2


def test_after_the_controllers_end_older_handles_follow_and_new_routes_are_served(
    single: str, configured: str, shared_instance: Instance
) -> None:
    handle = serve.get_handle(single)
    assert "config" not in handle.call().result(60)
    kill_controller()
    serve.set_traffic(single, {configured: 1.0})
    assert "config" in handle.call().result(60)
    serve.set_traffic(single, {single: 1.0})
    serve.create_endpoint("after", backend=single, route="/after")
    assert shared_instance.http.get("/after").status_code == 200
    serve.delete_endpoint("after")
    assert shared_instance.http.get("/after").status_code == 404


def test_what_a_call_made_survives_a_kill_right_after_it(
    deploy: Deploy, shared_instance: Instance
) -> None:
    name = deploy(Configured, route="/survives")
    kill_controller()
    assert shared_instance.http.get("/survives").status_code == 200
    serve.update_backend_config(name, {"num_replicas": 2, "user_config": "new"})
    kill_controller()
    assert serve.get_backend_config(name).num_replicas == 2
    assert ask(name)["config"] == "new"
    serve.delete_endpoint(name)
    kill_controller()
    assert name not in serve.list_endpoints()
    assert shared_instance.http.get("/survives").status_code == 404
    serve.delete_backend(name, force=True)
    kill_controller()
    assert name not in serve.list_backends()
    assert actor_names(name) == set()


def test_a_backend_that_is_being_created_comes_up_all_the_same(shared_instance: Instance) -> None:
    with ThreadPoolExecutor(1) as pool:
        created = pool.submit(
            serve.create_backend, "slow", SlowToStart, 4.0, ray_actor_options={"num_cpus": 0}
        )
        wait_until(lambda: any(view.is_placed for view in replicas("slow").values()))
        kill_controller()
        created.result(120)
    assert len(actor_names("slow")) == 1
    serve.create_endpoint("slow", backend="slow")
    assert ask("slow") == "up"
    serve.delete_endpoint("slow")
    serve.delete_backend("slow", force=True)


def test_a_constructor_under_way_at_the_controllers_end_is_not_taken_for_unplaced(
    shared_instance: Instance,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        created = pool.submit(
            serve.create_backend,
            "patient",
            SlowToStart,
            8.0,
            ray_actor_options={"num_cpus": 0},
            config={"placement_timeout_s": 5},
        )
        wait_until(lambda: any(view.is_placed for view in replicas("patient").values()))
        tags = set(replicas("patient"))
        kill_controller()
        created.result(120)
    assert set(replicas("patient")) == tags
    serve.delete_backend("patient", force=True)


# Replicas.


def test_a_killed_replica_comes_back_with_its_tag_and_a_new_process(single: str) -> None:
    with killed_replica(single) as before:  # whose end sees that the restart was counted
        after = ask(single)
        assert after["tag"] == before["tag"]
        assert after["pid"] != before["pid"]


def test_no_get_fails_when_one_of_two_replicas_is_killed_under_load(
    pair: str, shared_instance: Instance
) -> None:
    wait_until(lambda: len(_answering(lambda: shared_instance.http.get("/pair").json())) == 2)
    with stream_of_http(shared_instance, "/pair") as stream:
        with killed_replica(pair):
            stream.wait_for_more(100)
        stream.wait_for_more(50)
    assert stream.errors == []


def test_no_remote_call_fails_when_one_of_two_replicas_is_killed(pair: str) -> None:
    handle = serve.get_handle(pair)
    wait_until(lambda: len(_answering(lambda: ray.get(handle.remote()))) == 2)
    with Stream(lambda: ray.get(handle.remote())) as stream:
        with killed_replica(pair):
            stream.wait_for_more(50)
    assert stream.errors == []


def test_only_direct_calls_in_flight_at_a_killed_replica_fail_and_say_so(pair: str) -> None:
    handle = serve.get_handle(pair)
    with Stream(lambda: handle.call().result(60)) as stream:
        with killed_replica(pair):
            stream.wait_for_more(50)
    assert len(stream.errors) <= 4  # one for each thread of the stream
    assert all(isinstance(error, serve.ReplicaDiedError) for error in stream.errors)
    assert all("did not answer" in str(error) for error in stream.errors)


@pytest.mark.parametrize("way", ["http", "call", "remote"])
def test_requests_wait_for_the_only_replica_to_come_back(
    single: str, shared_instance: Instance, way: str
) -> None:
    handle = serve.get_handle(single)
    ways: dict[str, Callable[[], Any]] = {
        "http": lambda: shared_instance.http.get("/single").raise_for_status().json(),
        "call": lambda: handle.call().result(60),
        "remote": lambda: ray.get(handle.remote(), timeout=30),
    }
    ways[way]()
    with killed_replica(single) as before:
        wait_until(lambda: not is_alive(before["pid"]))
        for _ in range(2):  # the handle's loop has seen its connection close after these turns
            get_loop_thread().submit(asyncio.sleep(0)).result(60)
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: ways[way](), range(5)))
    assert {answer["tag"] for answer in answers} == {before["tag"]}
    assert {answer["pid"] for answer in answers} != {before["pid"]}


def test_a_changed_user_config_survives_the_replicas_restart(configured: str) -> None:
    serve.update_backend_config(configured, {"user_config": "second"})
    with killed_replica(configured) as before:
        pass
    after = ask(configured)
    assert after["pid"] != before["pid"]
    assert after["config"] == "second"


def test_a_replica_killed_while_the_controller_is_away_comes_back(single: str) -> None:
    before = ask(single)
    kill_controller()
    os.kill(before["pid"], signal.SIGKILL)
    assert wait_until(lambda: _running(single))
    after = ask(single)
    assert after["tag"] == before["tag"]
    assert after["pid"] != before["pid"]


@pytest.mark.parametrize(
    ("kind", "said"), [("raise", "RuntimeError: sabotaged"), ("exit", "process ended")]
)
def test_a_replica_that_cannot_start_again_shows_why_backs_off_and_recovers(
    deploy: Deploy, tmp_path: Path, kind: str, said: str
) -> None:
    file = tmp_path / "sabotage"
    name = deploy(Sabotaged, str(file))
    pid = ask(name)
    file.write_text(kind)
    os.kill(pid, signal.SIGKILL)

    def told() -> Failure | None:
        seen = failure(name)
        return seen if seen and said in seen.message else None

    shown = wait_until(told)
    counts, began = [], time.monotonic()
    for _ in range(8):
        shown = failure(name) or shown
        counts.append(shown.count)
        time.sleep(0.25)
    took_s = time.monotonic() - began
    assert counts[-1] - counts[0] <= math.log2(took_s + 1) + 1  # 1 s, 2 s, 4 s... between them
    assert len(actor_names(name)) <= 1
    file.unlink()
    assert wait_until(lambda: _running(name))
    assert failure(name) is None
    assert ask(name) != pid


def test_a_process_that_ends_in_the_constructor_fails_the_create(
    shared_instance: Instance, tmp_path: Path
) -> None:
    file = tmp_path / "sabotage"
    file.write_text("exit")
    with pytest.raises(serve.BackendStartError, match="process ended"):
        serve.create_backend("ends", Sabotaged, str(file), ray_actor_options={"num_cpus": 0})
    assert "ends" not in serve.list_backends()
    assert actor_names("ends") == set()


# The ingress.


@pytest.fixture
def folder(shared_instance: Instance) -> Path:
    (found,) = run_folders(shared_instance.port)
    return found


def _is_serving(instance: Instance, path: str) -> bool:
    try:
        return httpx.get(instance.url(path), timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("part", ["master", "worker"])
def test_a_killed_haproxy_comes_back(
    single: str, shared_instance: Instance, folder: Path, part: str
) -> None:
    old = haproxies(folder)
    (master,) = masters(folder)
    os.kill(master if part == "master" else max(old - {master}), signal.SIGKILL)
    wait_until(lambda: _is_serving(shared_instance, "/single"))
    wait_until(lambda: not old & haproxies(folder))
    wait_until(lambda: len(masters(folder)) == 1)  # one that checks a configuration is gone soon


def test_a_killed_ingress_comes_back_and_routes_as_before(
    single: str, shared_instance: Instance, folder: Path
) -> None:
    old = haproxies(folder)
    (master,) = masters(folder)
    os.kill(parent_of(master), signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, old)))
    wait_until(lambda: _is_serving(shared_instance, "/single"))
    wait_until(lambda: len(masters(folder)) == 1)
    # A call waits for the ingresses that the controller knows to listen.
    wait_until(lambda: all(v.address for v in client().status().observed.ingresses.values()))
    serve.create_endpoint("ingress_after", backend=single, route="/ingress_after")
    assert httpx.get(shared_instance.url("/ingress_after")).status_code == 200
    serve.delete_endpoint("ingress_after")
    assert httpx.get(shared_instance.url("/ingress_after")).status_code == 404


def test_the_ingress_comes_back_once_a_stranger_gives_its_port_free(
    single: str, shared_instance: Instance, folder: Path
) -> None:
    (master,) = masters(folder)
    os.kill(parent_of(master), signal.SIGKILL)
    views = client().status
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: _binds(stranger, shared_instance.port))
        stranger.listen()
        wait_until(lambda: any(v.error for v in views().observed.ingresses.values()))
    wait_until(lambda: _is_serving(shared_instance, "/single"))
    wait_until(lambda: all(v.address for v in views().observed.ingresses.values()))


def _binds(stranger: socket.socket, port: int) -> bool:
    try:
        stranger.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _running(backend: str) -> list[ReplicaView]:
    return [view for view in replicas(backend).values() if view.phase.value == "RUNNING"]


def _answering(ask_one: Callable[[], dict[str, Any]]) -> set[str]:
    """Tags of the replicas that answered four requests."""
    return {ask_one()["tag"] for _ in range(4)}


def _two(answers: Any) -> dict[str, int] | None:
    """Replica tag -> process id, once both replicas have answered."""
    found = {answer["tag"]: answer["pid"] for answer in answers}
    return found if len(found) == 2 else None
