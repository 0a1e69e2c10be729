"""`EveryNode` on a `ray.cluster_utils.Cluster`: an ingress on a node that joins, gone with it.

An ingress needs its port for itself, so each node is in a network namespace of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import free_port
from tests.integration.clusters import name_of, short_folder, user_environment
from tests.integration.hosts import Host, hosts
from tests.integration.processes import is_alive, run_python, wait_until, write_script
from tests.integration.statuses import status_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.in_order,
    pytest.mark.timeout(600),  # a fixture's time counts
]

PORT = 8000
LONG_S = 120

CLUSTER = """
    import ctypes, os, sys
    from ray.cluster_utils import Cluster

    NEW_NETWORK = 0x40000000
    gcs_port, folder, *places = sys.argv[1:]  # of each node: namespace, address

    def add(cluster, number, **more):
        namespace, address = places[2 * number :][:2]
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        # What this thread starts from here on is in that namespace.
        assert ctypes.CDLL(None).setns(descriptor, NEW_NETWORK) == 0
        os.close(descriptor)
        return cluster.add_node(
            wait=False,
            node_ip_address=address,
            temp_dir=os.path.join(folder, ("ray", "other")[number]),  # the first: $RAY_TMPDIR's
            include_dashboard=False,
            **more,
        )

    cluster = Cluster()
    add(cluster, 0, gcs_server_port=int(gcs_port))
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "add\\n":
            node = add(cluster, 1)
        else:
            cluster.remove_node(node, allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()
"""


@dataclass
class Cluster:
    """A cluster whose second node comes and goes. Its first one serves, with `EveryNode`."""

    hosts: list[Host]
    address: str
    environment: dict[str, str]
    keeper: subprocess.Popen[str]
    ask_status: Callable[[], Any] = dict

    def tell(self, word: str) -> None:
        """`add` or `remove` the second node."""
        assert self.keeper.stdin is not None
        assert self.keeper.stdout is not None
        print(word, file=self.keeper.stdin, flush=True)
        assert self.keeper.stdout.readline() == "done\n"

    def tagtrail(self, *args: str) -> str:
        """`tagtrail`, on the first node."""
        command = ("-m", "serve", "--address", self.address, *args)
        prefix = self.hosts[0].prefix
        done = run_python(self.environment, *command, prefix=prefix, timeout_s=LONG_S)
        assert done.returncode in (0, 3), done.stderr  # 3: it serves, and not all is well
        return done.stdout

    def replica_host(self) -> str:
        """Address at which the one replica listens."""
        status = self.ask_status()
        (replica,) = status["backends"][0]["replicas"]
        return str(replica["http"]).rpartition(":")[0]

    def wait_for_ingresses(self, count: int) -> set[str]:
        """Until `status` tells that so many serve; the ids of their nodes."""

        def ask() -> set[str]:
            status = self.ask_status()
            nodes = {view["node_id"] for view in status["ingresses"]}
            return nodes if status["healthy"] and len(nodes) == count else set()

        return wait_until(ask, LONG_S)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with contextlib.ExitStack() as undo:
        made = undo.enter_context(hosts(2))
        folder = short_folder()
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        port = free_port()
        places = [part for host in made for part in (host.namespace, host.address)]
        environment = user_environment(folder) | {"RAY_AUTH_MODE": "disabled"}
        keeper = undo.enter_context(
            subprocess.Popen(
                [
                    *(*made[0].prefix, sys.executable, str(write_script(CLUSTER, folder))),
                    *(str(port), str(folder), *places),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
        undo.callback(keeper.kill)
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        found = Cluster(made, f"{made[0].address}:{port}", environment, keeper)
        found.tagtrail("start", "--http-host", "0.0.0.0", "--http-location", "EveryNode")
        with status_of(found.address, environment, made[0].prefix) as found.ask_status:
            yield found
        found.tagtrail("shutdown")
        keeper.communicate(timeout=LONG_S)
        assert keeper.returncode == 0


APP = """
backends:
  greeter: {import: tests.integration.samples.greet, ray_actor_options: {num_cpus: 0}}
endpoints:
  greet: {route: /greet, traffic: {greeter: 1}}
"""


def test_a_node_that_joins_has_an_ingress_which_goes_with_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    (head,) = cluster.wait_for_ingresses(1)
    assert is_served(cluster.hosts[0])
    app = tmp_path / "app.yaml"
    app.write_text(APP)
    cluster.tagtrail("deploy", str(app))
    assert cluster.replica_host() == "127.0.0.1"  # with one node, nobody else need reach it
    assert greet(cluster.hosts[0]) == "greetings"

    cluster.tell("add")
    both = cluster.wait_for_ingresses(2)
    assert is_served(cluster.hosts[1])
    wait_until(lambda: cluster.replica_host() == cluster.hosts[0].address, LONG_S)
    wait_until(lambda: greet(cluster.hosts[1]) == "greetings", LONG_S)
    assert greet(cluster.hosts[0]) == "greetings"
    started = haproxies_on(cluster.hosts[1])

    cluster.tell("remove")
    assert cluster.wait_for_ingresses(1) == {head} == both & {head}
    assert started
    wait_until(lambda: not any(map(is_alive, started)), LONG_S)
    assert is_served(cluster.hosts[0])


def is_served(host: Host) -> bool:
    return httpx.get(f"http://{host.address}:{PORT}/-/healthz", timeout=60).status_code == 200


def greet(host: Host) -> str:
    return httpx.get(f"http://{host.address}:{PORT}/greet", timeout=60).text


def haproxies_on(host: Host) -> set[int]:
    """Process ids of the HAProxy in a host's namespace."""
    return {pid for pid in host.pids() if name_of(pid) == "haproxy"}
