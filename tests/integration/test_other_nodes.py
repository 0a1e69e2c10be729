"""Two nodes, each with its own address and folder: the trail of a request that crosses them."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port
from tests.integration.clusters import ray_node, short_folder
from tests.integration.follower import follow
from tests.integration.processes import run_python, run_script, script_env, wait_until

LOCAL = "127.0.0.1"
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # not .1: Ray takes that for another address
LINES = 3_000
SAID = "€" * 60  # of several bytes each: what Ray sends at a time may end within one

DEPLOY = """
    import logging, sys, ray, serve
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

    def store(request):
        for number in range(int(request.query_params["lines"])):
            logging.getLogger("store").info("€" * 60 + "%d", number)
        return "stored"

    class Front:
        def __init__(self):
            self.handle = serve.get_handle("store", sync=False)

        async def __call__(self, request):
            logging.getLogger("front").info("asking")
            return await self.handle.call(lines=request.query_params["lines"])

    serve.start(detached=True, http_options={"port": int(sys.argv[2])})
    for tag, target in (("store", store), ("front", Front)):
        place = {"num_cpus": 0, "resources": {"other" if tag == "store" else "head": 1}}
        serve.create_backend(tag, target, ray_actor_options=place)
        serve.create_endpoint(tag, backend=tag, route=f"/{tag}")
"""


@dataclass(frozen=True)
class Nodes:
    """A cluster of two nodes that serves `front` on the head and `store` on the other one.

    Attributes:
        address: of the cluster.
        port: of HTTP, on the head.
        dashboard: URL of Ray's dashboard.
        folders: Ray's temporary folder of each node, the head's first.
        environment: for what talks to it.
    """

    address: str
    port: int
    dashboard: str
    folders: tuple[Path, Path]
    environment: dict[str, str]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`tagtrail`, on the head."""
        command = ("-m", "serve", "--address", self.address, *args)
        return run_python(self.environment, *command, timeout_s=60)


@pytest.fixture(scope="module")
def nodes(ray_cluster: None) -> Iterator[Nodes]:
    """Beside another cluster on the same machine."""
    environment = script_env({"RAY_AUTH_MODE": "disabled", "COLUMNS": "160"})
    gcs, port, dashboard_port = free_port(), free_port(), free_port()
    head_options = (
        *("--head", f"--port={gcs}", "--include-dashboard=true"),
        *(f"--dashboard-port={dashboard_port}", f"--ray-client-server-port={free_port()}"),
    )
    folders = (short_folder(), short_folder())
    try:
        with ray_node(environment, folders[0], *options_of(HEAD, "head"), *head_options):
            address = f"{HEAD}:{gcs}"
            joining = (*options_of(OTHER, "other"), f"--address={address}")
            with ray_node(environment, folders[1], *joining):
                done = run_script(DEPLOY, address, port, timeout_s=120, env=environment)
                assert done.returncode == 0, done.stderr
                dashboard = f"http://127.0.0.1:{dashboard_port}"
                found = Nodes(address, port, dashboard, folders, environment)
                yield found
                assert found.run("shutdown").returncode == 0
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def options_of(address: str, name: str) -> tuple[str, ...]:
    return (
        *(f"--node-ip-address={address}", "--num-cpus=2"),
        *(f'--resources={{"{name}": 1}}', f"--metrics-export-port={free_port()}"),
    )


@pytest.fixture(scope="module")
def request_id(nodes: Nodes) -> str:
    """A request that was handled on both nodes."""
    answer = httpx.get(f"http://{LOCAL}:{nodes.port}/front?lines={LINES}", timeout=60)
    assert answer.text == "stored"
    return answer.headers["x-request-id"]


def test_each_node_keeps_the_records_of_its_own_replicas(nodes: Nodes, request_id: str) -> None:
    kept = [
        {path.name.partition("#")[0] for path in folder.glob("session_latest/logs/serve/replica_*")}
        for folder in nodes.folders
    ]
    assert kept == [{"replica_front"}, {"replica_store"}]


def test_logs_are_merged_over_the_nodes_in_the_order_of_time(nodes: Nodes, request_id: str) -> None:
    done = nodes.run("logs", "--request-id", request_id, "--json")
    records: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.stderr == ""
    assert [r["message"] for r in records if r["kind"] == "log"] == [
        "asking",
        *(f"{SAID}{number}" for number in range(LINES)),
    ]
    assert [r["backend"] for r in records if r["kind"] == "access"] == ["store", "front"]
    assert {(r["backend"], r["node"]) for r in records} == {("front", HEAD), ("store", OTHER)}


def test_a_request_over_two_nodes_is_one_tree(nodes: Nodes, request_id: str) -> None:
    (root,) = json.loads(nodes.run("trace", request_id, "--json").stdout)
    (child,) = root["children"]

    assert (root["access"]["node"], child["access"]["node"]) == (HEAD, OTHER)
    assert len(child["logs"]) == LINES


def test_both_nodes_are_followed_new_segments_included(nodes: Nodes, request_id: str) -> None:
    serving = f"http://{LOCAL}:{nodes.port}"
    with follow(nodes.address) as shown:
        numbers = itertools.count()

        def ask() -> bool:
            headers = {"X-Request-ID": f"follow-{next(numbers)}"}
            httpx.get(f"{serving}/front?lines=1", headers=headers, timeout=60)
            return {record.get("backend") for record in shown} >= {"front", "store"}

        wait_until(ask)
        # A process that begins now has a segment that was not there when following began.
        killed = {pid_of(record) for record in shown if record.get("backend") == "store"}
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: ask() and {pid_of(r) for r in shown if r.get("backend") == "store"} - killed,
            60,
        )
    assert request_id not in {record.get("request_id") for record in shown}
    lines = [r for r in shown if r["kind"] == "log" and "request_id" in r]
    assert set(Counter((r["request_id"], r["backend"]) for r in lines).values()) == {1}


def pid_of(record: dict[str, Any]) -> int:
    return int(record["pid"])


def test_the_doctor_finds_a_canary_that_another_node_answered(nodes: Nodes) -> None:
    done = nodes.run("doctor", "--path", "/store?lines=1", "--json")
    report = json.loads(done.stdout)
    found = {station["station"]: station for station in report["stations"]}
    assert done.returncode == 0, report
    assert "200 of store#" in found["answer"]["detail"]
    assert "1 node" not in found["ray"]["detail"]
    assert "2 records in another node's segments" in found["segment"]["detail"]
    assert found["metrics port"]["detail"].startswith(f"{OTHER}:")
    assert found["metrics page"]["outcome"] == "ok"


def ask_dashboard(nodes: Nodes, path: str, **parameters: Any) -> httpx.Response:
    answer = httpx.get(f"{nodes.dashboard}{path}", params=parameters, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def test_rays_dashboard_names_what_runs(nodes: Nodes) -> None:
    """Its page Actors shows these."""
    told = ask_dashboard(nodes, "/logical/actors").json()["data"]["actors"].values()
    alive = {(a["actorClass"], a["name"]) for a in told if a["state"] == "ALIVE"}
    tags = {
        backend["tag"]: [replica["tag"] for replica in backend["replicas"]]
        for backend in json.loads(nodes.run("status", "--json").stdout)["backends"]
    }
    name = "SERVE_CONTROLLER_ACTOR"
    assert ("Controller", name) in alive
    assert ("RayServeReplica_store", f"{name}:{tags['store'][0]}") in alive
    assert ("RayServeReplica_Front", f"{name}:{tags['front'][0]}") in alive
    (ingress,) = (called for kind, called in alive if kind == "IngressActor")
    assert ingress.startswith(f"{name}:SERVE_PROXY_ACTOR-")


def test_rays_dashboard_opens_the_files_of_the_records(nodes: Nodes, request_id: str) -> None:
    """Its page Logs lists and shows these, of each node."""
    for node in ask_dashboard(nodes, "/nodes", view="summary").json()["data"]["summary"]:
        node_id = node["raylet"]["nodeId"]
        listed = ask_dashboard(nodes, "/api/v0/logs", node_id=node_id, glob="serve/*").json()
        names = [name for group in listed["data"]["result"].values() for name in group]
        (segment,) = (
            name for name in names if re.search(r"replica_(front|store).*\.000001\.", name)
        )
        shown = ask_dashboard(
            *(nodes, "/api/v0/logs/file"), node_id=node_id, filename=segment, lines=-1
        )
        assert request_id in shown.text
