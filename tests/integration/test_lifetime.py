"""How instances begin and end: with their script, detached, on their own Ray or one that runs."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import ray
from ray import cloudpickle
from ray.experimental.internal_kv import _internal_kv_put

import serve
from serve.ids import DETACHED_CONTROLLER, NAMESPACE
from serve.session import session_folder
from tests.conftest import free_port
from tests.integration.clusters import ray_node
from tests.integration.processes import (
    haproxies,
    is_alive,
    run_folders,
    run_script,
    script_env,
    start_script,
    wait_until,
)

NO_SERVER = {"location": "NoServer"}

HELLO = """
    import os, sys, time
    import ray
    import serve

    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    client = serve.start(detached=sys.argv[2] == "detached", http_options={"port":
    int(sys.argv[3])})
    serve.create_backend("hello", lambda: str(os.getpid()), ray_actor_options={"num_cpus": 0})
    serve.create_endpoint("hello", backend="hello", route="/hello")
    pid = ray.get(serve.get_handle("hello").remote())
    print(client.controller_name, client.status().pid, pid, flush=True)
"""


@pytest.fixture
def instances(ray_cluster: None) -> Iterator[None]:
    """For tests that start instances in this process: none is left."""
    yield
    serve.shutdown()
    with contextlib.suppress(serve.RayServeException):
        serve.connect().shutdown()
    serve.shutdown()


def actors_of(controller_name: str) -> set[str]:
    entries = ray.util.list_named_actors(all_namespaces=True)
    names = {entry["name"] for entry in entries if entry["namespace"] == NAMESPACE}
    return {name for name in names if name.startswith(controller_name)}


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# With the script, or detached.


def test_an_instance_ends_with_its_script(ray_address: str, http_port: int) -> None:
    done = run_script(HELLO, ray_address, "with-script", http_port)
    assert done.returncode == 0, done.stderr
    name, controller_pid, replica_pid = done.stdout.split()
    assert name.endswith(":SERVE_CONTROLLER_ACTOR")
    wait_until(lambda: not is_alive(int(controller_pid)) and not is_alive(int(replica_pid)))
    wait_until(lambda: actors_of(name) == set())  # Ray hears of their end a moment later
    wait_until(lambda: run_folders(http_port) == [])
    wait_until(lambda: is_free(http_port))


def test_start_without_ray_starts_one_and_both_end_with_the_script(
    tmp_path: Path, http_port: int
) -> None:
    script = start_script(
        """
        import os, sys
        import ray
        import serve

        calls, ray_init = [], ray.init

        def own_ray(*args, **kwargs):  # with no other's cluster in sight, and no more than it needs
            calls.append((args, kwargs))
            ray_init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)

        ray.init = own_ray
        client = serve.start(http_options={"port": int(sys.argv[1])})
        assert calls == [((), {})], calls
        serve.create_backend("hello", lambda: str(os.getpid()))
        serve.create_endpoint("hello", backend="hello", route="/hello")
        print(client.status().pid, ray.get(serve.get_handle("hello").remote()))
        input()
        """,
        tmp_path,
        http_port,
    )
    assert script.stdout is not None and script.stdin is not None
    pids = [int(pid) for pid in script.stdout.readline().split()]
    (folder,) = run_folders(http_port)
    pids += haproxies(folder)
    assert len(pids) == 4  # controller, replica, HAProxy's master and worker
    assert httpx.get(f"http://127.0.0.1:{http_port}/hello").text == str(pids[1])
    script.stdin.write("\n")
    script.stdin.close()
    assert script.wait(90) == 0
    script.stdout.close()
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: not folder.exists())
    assert is_free(http_port)


def test_a_detached_instance_stays_and_the_next_script_finds_it(
    instances: None, ray_address: str, http_port: int
) -> None:
    first = run_script(HELLO, ray_address, "detached", http_port)
    assert first.returncode == 0, first.stderr
    pid = first.stdout.split()[2]
    assert httpx.get(f"http://127.0.0.1:{http_port}/hello").text == pid
    second = run_script(
        """
        import sys
        import ray
        import serve
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        print(list(serve.list_backends()), ray.get(serve.get_handle("hello").remote()))
        """,
        ray_address,
    )
    assert second.returncode == 0, second.stderr
    assert second.stdout.strip() == f"['hello'] {pid}"
    assert httpx.get(f"http://127.0.0.1:{http_port}/hello").text == pid
    (folder,) = run_folders(http_port)
    serve.connect().shutdown()
    assert haproxies(folder) == set()
    assert not folder.exists()
    assert is_free(http_port)


def test_connect_without_an_instance_says_to_start_one(instances: None) -> None:
    with pytest.raises(
        serve.RayServeException, match=r"no instance running.*serve\.start\(detached=True\)"
    ):
        serve.connect()


def test_functions_without_an_instance_say_to_start_one(instances: None) -> None:
    with pytest.raises(serve.RayServeException, match="no instance running"):
        serve.list_backends()


def test_two_instances_that_are_not_detached_live_side_by_side(instances: None) -> None:
    ports = free_port(), free_port()
    clients = [serve.start(http_options={"port": port}) for port in ports]
    for number, client in enumerate(clients):
        client.create_backend("same", _answer(number), ray_actor_options={"num_cpus": 0})
        client.create_endpoint("same", backend="same", route="/same")
    texts = [httpx.get(f"http://127.0.0.1:{port}/same").text for port in ports]
    assert texts == ["0", "1"]
    assert clients[1].get_handle("same").call().result(60) == "1"
    clients[0].shutdown()
    assert httpx.get(f"http://127.0.0.1:{ports[1]}/same").text == "1"


def _answer(number: object) -> object:
    def answer() -> str:
        return str(number)

    return answer


# Shutdown.


def test_a_second_detached_instance_is_refused_and_shutdown_twice_is_no_error(
    instances: None,
) -> None:
    client = serve.start(detached=True, http_options={"host": None})
    assert client.wait_until_listening() == []  # a way of having no server
    with pytest.raises(serve.RayServeException, match=r"already running\. .*serve\.connect\(\)"):
        serve.start(detached=True, http_options=NO_SERVER)
    assert serve.list_backends() == {}  # the first is untouched
    with pytest.raises(serve.RayServeException, match=r"cannot be serialized.*serve\.connect\(\)"):
        pickle.dumps(client)
    serve.shutdown()
    serve.shutdown()
    client.shutdown()
    with pytest.raises(serve.RayServeException, match="no instance running"):
        serve.list_backends()
    with pytest.raises(serve.RayServeException, match=r"already been shut down.*serve\.start"):
        client.list_backends()


def test_start_works_again_after_shutdown_on_the_same_port(instances: None, http_port: int) -> None:
    for text in ("first", "second"):
        serve.start(detached=True, http_options={"port": http_port})
        serve.create_backend("again", _answer(text), ray_actor_options={"num_cpus": 0})
        serve.create_endpoint("again", backend="again", route="/again")
        assert httpx.get(f"http://127.0.0.1:{http_port}/again").text == text
        serve.shutdown()


def test_a_handle_elsewhere_goes_on_with_the_next_detached_instance(
    instances: None, ray_address: str, tmp_path: Path
) -> None:
    def deploy(text: str) -> None:
        client = serve.start(detached=True, http_options=NO_SERVER)
        assert client.wait_until_listening() == []
        serve.create_backend("next", lambda: text, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint("next", backend="next")

    deploy("first")
    script = start_script(
        """
        import sys
        import ray
        import serve
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        handle = serve.get_handle("next")
        print(handle.call().result(60))
        input()
        print(handle.call().result(60), ray.get(handle.remote()))
        """,
        tmp_path,
        ray_address,
    )
    assert script.stdout is not None
    assert script.stdout.readline() == "first\n"
    serve.shutdown()
    deploy("second")
    out, _ = script.communicate("\n", timeout=90)
    assert out == "second second\n"


# A stored goal that can't be read.


def test_a_goal_of_another_version_is_refused_and_the_next_start_begins_anew(
    instances: None,
) -> None:
    client = serve.start(detached=True, http_options={"location": None})
    assert client.wait_until_listening() == []  # another way of having no server
    serve.create_backend("old", _answer("old"), ray_actor_options={"num_cpus": 0})
    pid = serve.connect().status().pid
    (old_actor,) = (name for name in actors_of(DETACHED_CONTROLLER) if ":old#" in name)
    _internal_kv_put(
        f"goal:{DETACHED_CONTROLLER}", cloudpickle.dumps({"of": "before"}), namespace=NAMESPACE
    )
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    with pytest.raises(
        serve.RayServeException, match=r"another version of Tagtrail.*start it anew"
    ):
        serve.list_backends()
    serve.start(detached=True, http_options=NO_SERVER)
    assert serve.list_backends() == {}
    wait_until(lambda: old_actor not in actors_of(DETACHED_CONTROLLER))


# Wrong calls.


def test_a_taken_port_is_a_value_error_and_leaves_nothing(instances: None) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(ValueError, match=rf"Failed to bind .*127\.0\.0\.1:{port}'"):
            serve.start(detached=True, http_options={"port": port})
    assert run_folders(port) == []
    with pytest.raises(serve.RayServeException, match="no instance running"):
        serve.connect()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 0}, "port"),
        ({"port": "many"}, "port"),
        ({"colour": "red"}, "colour"),
        ({"location": "Everywhere"}, "location"),
        ({"request_timeout_s": 0}, "request_timeout_s"),
    ],
)
def test_bad_http_options_are_a_value_error_that_names_them(
    instances: None, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        serve.start(http_options=options)


def test_http_options_of_another_type_are_a_type_error(instances: None) -> None:
    with pytest.raises(TypeError, match=r"must be HTTPOptions or a dictionary. Got int"):
        serve.start(http_options=8000)  # type: ignore[arg-type]


def test_both_ways_of_giving_http_options_are_refused(instances: None) -> None:
    with pytest.raises(ValueError, match=r"both `http_options` and any .* Got `http_port`"):
        serve.start(http_port=8001, http_options={"port": 8001})


def test_the_old_http_arguments_work_and_warn_and_the_file_of_the_page_goes_with_the_instance(
    instances: None, http_port: int
) -> None:
    before = metrics_targets()
    with pytest.warns(DeprecationWarning, match="http_port"):
        client = serve.start(http_port=http_port)
    assert httpx.get(f"http://127.0.0.1:{http_port}/-/healthz").status_code == 200
    (file,) = wait_until(lambda: metrics_targets() - before)
    (ingress,) = client.status().observed.ingresses.values()
    assert json.loads(file.read_text())[0]["targets"] == [ingress.admin_address]
    client.shutdown()
    assert not file.exists()


def metrics_targets() -> set[Path]:
    return set(Path(session_folder()).glob("tagtrail_metrics_*.json"))


# A script that is killed, and a Ray that runs already.


@pytest.mark.slow
def test_a_killed_script_leaves_neither_replicas_nor_haproxy(
    ray_address: str, http_port: int, tmp_path: Path
) -> None:
    script = start_script(
        HELLO + "    time.sleep(600)\n", tmp_path, ray_address, "with-script", http_port
    )
    assert script.stdout is not None and script.stdin is not None
    script.stdin.close()
    name, *pids = script.stdout.readline().split()
    (folder,) = run_folders(http_port)
    started = [int(pid) for pid in pids] + list(haproxies(folder))
    assert len(started) == 4
    script.kill()
    script.wait()
    script.stdout.close()
    wait_until(lambda: not any(map(is_alive, started)))
    wait_until(lambda: actors_of(name) == set() and not folder.exists())
    assert is_free(http_port)


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["disabled", "token"])
def test_it_works_on_a_ray_that_was_started_by_ray_start(auth: str, http_port: int) -> None:
    env = {"RAY_AUTH_MODE": auth}
    if auth == "token":
        env["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # this cluster's own
    with ray_start(env) as (address, ray_pid):
        done = run_script(
            HELLO + "    print(serve.connect().status().goal.is_detached)\n",
            address,
            "detached",
            http_port,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "True"
        pid = done.stdout.split()[2]
        assert httpx.get(f"http://127.0.0.1:{http_port}/hello").text == pid
        (folder,) = run_folders(http_port)
        os.killpg(ray_pid, signal.SIGKILL)
        wait_until(lambda: haproxies(folder) == set())  # it ends by itself
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_start(env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A head node with this environment; gives its address, and the pid that leads its group."""
    folder = tempfile.mkdtemp(prefix="tt", dir="/tmp")
    port = free_port()
    options = (
        *("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"),
        f"--ray-client-server-port={free_port()}",
        f"--metrics-export-port={free_port()}",
    )
    try:
        with ray_node(script_env(env), Path(folder), *options) as process:
            yield f"127.0.0.1:{port}", process.pid
    finally:
        shutil.rmtree(folder, ignore_errors=True)
