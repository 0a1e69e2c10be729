"""An ingress on each of three hosts with an address of its own; one is cut off and brought back."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port
from tests.integration.clusters import (
    Process,
    descendants,
    name_of,
    ray_node,
    short_folder,
    wait_until_gone,
)
from tests.integration.hosts import Host, hosts
from tests.integration.processes import run_python, script_env, wait_until, write_script
from tests.integration.statuses import status_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.in_order,
    pytest.mark.timeout(600),  # a fixture's time counts
]

PORT = 8000
LONG_S = 120
"""Longest wait for what takes seconds on an idle machine."""

QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""A node that does not answer is dead after 6 to 8 s; Ray's own settings: about a minute."""

DEPLOY = """
    import logging, os, sys, ray, serve
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

    def hello(request):
        logging.getLogger("hello").info("hello from %d", os.getpid())
        return "hello"

    class Front:
        def __init__(self):
            self.handle = serve.get_handle("store", sync=False)

        async def __call__(self, request):
            return await self.handle.call()

    options = {"host": "0.0.0.0", "location": "EveryNode", "request_timeout_s": 5}
    serve.start(detached=True, http_options=options)
    for tag, target, options in (
        ("hello", hello, {"num_cpus": 1, "scheduling_strategy": "SPREAD"}),
        ("store", lambda request: "stored", {"num_cpus": 0, "resources": {"host1": 1}}),
        ("front", Front, {"num_cpus": 0, "resources": {"host0": 1}}),
    ):
        config = {"num_replicas": 3 if tag == "hello" else 1}
        serve.create_backend(tag, target, ray_actor_options=options, config=config)
        serve.create_endpoint(tag, backend=tag, route=f"/{tag}")
"""


@dataclass
class Cluster:
    """Three hosts that serve `hello` with a replica each, `front` on the first one, which asks
    `store` on the second one.

    Attributes:
        hosts: the head is the first.
        gcs: port of the cluster.
        folders: Ray's temporary folder of each host.
        nodes: what keeps each host's Ray.
        ask_status: the status, by a process on the head that stays connected.
    """

    hosts: list[Host]
    gcs: int
    folders: list[Path]
    environment: dict[str, str]
    undo: contextlib.ExitStack
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    ask_status: Callable[[], Any] = dict

    def start(self, number: int) -> None:
        """Start Ray on a host. From any thread."""
        host = self.hosts[number]
        options = [
            *(f"--node-ip-address={host.address}", "--num-cpus=3"),
            *(f'--resources={{"host{number}": 1}}', f"--metrics-export-port={free_port()}"),
        ]
        if number == 0:
            options += ["--head", f"--port={self.gcs}", "--include-dashboard=true"]
        else:
            options += [f"--address={self.address}"]
        node = ray_node(self.environment, self.folders[number], *options, prefix=host.prefix)
        self.nodes[number] = self.undo.enter_context(node)

    @property
    def address(self) -> str:
        return f"{self.hosts[0].address}:{self.gcs}"

    def tagtrail(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`tagtrail`, on the head."""
        return self.python(0, "-m", "serve", "--address", self.address, *args)

    def python(self, number: int, *args: str) -> subprocess.CompletedProcess[str]:
        """Python, on a host."""
        prefix = self.hosts[number].prefix
        return run_python(self.environment, *args, prefix=prefix, timeout_s=LONG_S)

    def status(self) -> Any:
        return json.loads(self.tagtrail("status", "--json").stdout)

    def wait_until_well(self, ingresses: int, left: str = "") -> Any:
        """Until all is well with so many ingresses; the status then.

        Args:
            ingresses: how many.
            left: address of a host that no replica is on: the controller may hear first of its
                ingress's end, and take its replica for well a moment longer.
        """

        def ask() -> Any:
            status = self.ask_status()
            has_left = left not in replicas_by_host(status, "hello")
            return status if is_well(status, ingresses) and has_left else None

        return wait_until(ask, LONG_S)

    def url(self, number: int, path: str) -> str:
        return f"http://{self.hosts[number].address}:{PORT}{path}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    environment = script_env({"RAY_AUTH_MODE": "disabled", "COLUMNS": "160", **QUICK})
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(hosts(3))
        folders = [short_folder() for _ in made]
        for folder in folders:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        found = Cluster(made, free_port(), folders, environment, undo)
        found.start(0)
        with ThreadPoolExecutor() as starting:
            list(starting.map(found.start, (1, 2)))
        script = write_script(DEPLOY, folders[0])
        done = found.python(0, str(script), found.address)
        assert done.returncode == 0, done.stderr
        asking = status_of(found.address, environment, made[0].prefix)
        found.ask_status = undo.enter_context(asking)
        yield found
        assert found.tagtrail("shutdown").returncode == 0


@dataclass(frozen=True)
class Answer:
    """What a client saw of one request; when it began, in seconds of the monotonic clock."""

    host: int
    status: int
    began: float


@dataclass
class Clients:
    """Ask some hosts for `/hello`, again and again, until the block ends.

    Attributes:
        answers: what came, so far.
    """

    cluster: Cluster
    numbers: tuple[int, ...]
    answers: list[Answer] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in self.numbers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Until each host has answered so often from now on."""
        before = len(self.answers)

        def are_enough() -> bool:
            fresh = Counter(a.host for a in self.answers[before:] if a.status == 200)
            return all(fresh[number] >= count for number in self.numbers)

        wait_until(are_enough, LONG_S)

    def _ask(self, number: int) -> None:
        with httpx.Client(timeout=LONG_S) as http:
            while not self._end.wait(0.02):
                began = time.monotonic()
                status = http.get(self.cluster.url(number, "/hello")).status_code
                self.answers.append(Answer(number, status, began))


@dataclass(frozen=True)
class CutOff:
    """What was seen while the third host was cut off.

    Attributes:
        answers: of the two others.
        settled_at: when `status` told that all is well without it, seconds of the monotonic clock.
        status: as it was then.
        local: id of a request that the host itself answered to a client on it.
        is_serving: its HAProxy ran on after that.
        processes: all that ran there for its Ray, and still does.
    """

    answers: list[Answer]
    settled_at: float
    status: Any
    local: str
    is_serving: bool
    processes: set[Process]


ASK_LOCALLY = """
import httpx
for number in range(20):  # one that goes to a replica of another host may have no answer
    headers = {"X-Request-ID": f"cut-off-{number}"}
    answer = httpx.get("http://127.0.0.1:8000/hello", headers=headers, timeout=60)
    if answer.status_code == 200:
        print(headers["X-Request-ID"])
        break
"""


@pytest.fixture(scope="module")
def cut_off(cluster: Cluster) -> CutOff:
    """The third host is cut off, and stays so."""
    processes = descendants(cluster.nodes[2].pid)
    with Clients(cluster, (0, 0, 1, 1)) as clients:
        clients.wait_for(50)
        cluster.hosts[2].cut_off()
        told = cluster.python(2, "-c", ASK_LOCALLY)
        assert told.returncode == 0, told.stderr
        # Now: a raylet that reaches no head for a minute ends, and all that it started.
        is_serving = "haproxy" in {name_of(pid) for pid, _ in descendants(cluster.nodes[2].pid)}
        status, settled_at = cluster.wait_until_well(2, cluster.hosts[2].address), time.monotonic()
        clients.wait_for(50)
    left = {process for process in processes if process in descendants(cluster.nodes[2].pid)}
    return CutOff(clients.answers, settled_at, status, told.stdout.strip(), is_serving, left)


@pytest.fixture(scope="module")
def brought_back(cluster: Cluster, cut_off: CutOff) -> list[Process]:
    """The host is reached again, and Ray is started there anew; what is left of its first life."""
    cluster.hosts[2].bring_back()
    left = wait_until_gone(cut_off.processes, LONG_S)
    cluster.start(2)
    cluster.wait_until_well(3)
    return left


def is_well(status: Any, ingresses: int) -> bool:
    return bool(status["healthy"]) and len(status["ingresses"]) == ingresses


def replicas_by_host(status: Any, tag: str) -> Counter[str]:
    (backend,) = (b for b in status["backends"] if b["tag"] == tag)
    return Counter(replica["http"].partition(":")[0] for replica in backend["replicas"])


def records(cluster: Cluster, *options: str) -> list[dict[str, Any]]:
    done = cluster.tagtrail("logs", "--json", *options)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


# The tests follow the story: the host is cut off and brought back when it is first asked for.


def test_each_host_answers_on_its_own_address(cluster: Cluster) -> None:
    for number in range(3):
        assert httpx.get(cluster.url(number, "/hello"), timeout=60).text == "hello"
        assert httpx.get(cluster.url(number, "/-/healthz"), timeout=60).status_code == 200


def test_status_shows_the_ingresses_and_replicas_of_all_hosts(cluster: Cluster) -> None:
    status = cluster.status()
    assert is_well(status, 3)
    assert replicas_by_host(status, "hello") == {host.address: 1 for host in cluster.hosts}
    assert replicas_by_host(status, "store") == {cluster.hosts[1].address: 1}
    assert {i["node"] for i in status["ingresses"]} == {host.address for host in cluster.hosts}


def test_the_controller_is_where_serve_was_started(cluster: Cluster) -> None:
    assert cluster.status()["controller"]["pid"] in cluster.hosts[0].pids()
    # Prometheus on that host is told of the page that it reaches, which is one host's own.
    (path,) = cluster.folders[0].glob("session_latest/tagtrail_metrics_*.json")
    (job,) = json.loads(path.read_text())
    assert [target.partition(":")[0] for target in job["targets"]] == ["127.0.0.1"]


def test_the_replica_of_the_ingresss_own_host_answers(cluster: Cluster) -> None:
    placed = {
        replica["tag"]: replica["http"].partition(":")[0]
        for backend in cluster.status()["backends"]
        for replica in backend["replicas"]
    }
    with httpx.Client(timeout=60) as http:
        for number in range(3):
            url = cluster.url(number, "/hello")
            answered = {http.get(url).headers["x-serve-replica"] for _ in range(10)}
            assert {placed[tag] for tag in answered} == {cluster.hosts[number].address}


def test_a_request_that_crosses_three_hosts_is_one_tree(cluster: Cluster) -> None:
    answer = httpx.get(cluster.url(2, "/front"), timeout=60)  # an ingress that has neither
    (root,) = json.loads(cluster.tagtrail("trace", answer.headers["x-request-id"], "--json").stdout)
    (child,) = root["children"]
    nodes = [part["access"]["node"] for part in (root, child)]
    assert nodes == [cluster.hosts[0].address, cluster.hosts[1].address]


def test_logs_are_those_of_all_hosts(cluster: Cluster) -> None:
    ids = set()
    seen: set[str] = set()
    with httpx.Client(timeout=60) as http:
        while len(seen) < 3:  # which replica an ingress chooses among three free ones is its own
            for number in range(3):
                answer = http.get(cluster.url(number, "/hello"))
                ids.add(answer.headers["x-request-id"])
                seen.add(answer.headers["x-serve-replica"])
            assert len(ids) < 600, seen
    shown = [r for r in records(cluster, "--backend", "hello") if r.get("request_id") in ids]
    addresses = {host.address for host in cluster.hosts}
    assert {(r["kind"], r["node"]) for r in shown} == {
        (kind, address) for kind in ("log", "access") for address in addresses
    }
    assert Counter((r["kind"], r["request_id"]) for r in shown) == {
        (kind, one): 1 for kind in ("log", "access") for one in ids
    }


def test_top_counts_the_requests_of_all_hosts(cluster: Cluster) -> None:
    with Clients(cluster, (0, 1, 2)) as clients:
        clients.wait_for(5)
        shown = json.loads(cluster.tagtrail("top", "--count", "1", "--every", "2", "--json").stdout)
    busy = {row["replica"] for row in shown["rows"] if row["backend"] == "hello" and row["per_s"]}
    assert len(busy - {""}) == 3


def test_without_a_host_the_others_answer_and_only_what_it_had_taken_fails(
    cut_off: CutOff,
) -> None:
    failed = [answer for answer in cut_off.answers if answer.status != 200]
    # One that was sent over a connection to the host just when it was cut off, or before that was
    # noticed. How many: those under way and the idle connections. 504: request_timeout_s ended it.
    assert {answer.status for answer in failed} <= {504}
    assert len(failed) <= 20
    assert [a for a in failed if a.began > cut_off.settled_at] == []
    assert {a.host for a in cut_off.answers if a.began > cut_off.settled_at} == {0, 1}


def test_its_replica_is_replaced_on_another_host(cluster: Cluster, cut_off: CutOff) -> None:
    placed = replicas_by_host(cut_off.status, "hello")
    assert placed.total() == 3
    assert cluster.hosts[2].address not in placed


def test_the_host_itself_goes_on_with_its_own_replica(cut_off: CutOff) -> None:
    assert cut_off.local
    assert cut_off.is_serving


def test_brought_back_it_has_an_ingress_again(cluster: Cluster, brought_back: object) -> None:
    for number in range(3):
        assert httpx.get(cluster.url(number, "/hello"), timeout=60).text == "hello"


def test_nothing_is_left_of_its_first_life(brought_back: list[Process]) -> None:
    assert brought_back == []


def test_what_it_recorded_while_it_was_cut_off_is_found(
    cluster: Cluster, cut_off: CutOff, brought_back: object
) -> None:
    found = records(cluster, "--request-id", cut_off.local)
    assert [r["kind"] for r in found] == ["log", "access"]
    assert {r["node"] for r in found} == {cluster.hosts[2].address}


def test_records_of_both_its_lives_are_found(
    cluster: Cluster, cut_off: CutOff, brought_back: object
) -> None:
    pids = {
        r["pid"]
        for r in records(cluster)
        if r["node"] == cluster.hosts[2].address and r["component"] == "ingress"
    }
    first = {pid for pid, _ in cut_off.processes}
    assert pids & first and pids - first
