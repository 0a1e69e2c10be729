"""The tutorial's "hello" on a real Ray, started as KubeRay starts the head of deploy/kubernetes.

What is not here: Kubernetes, KubeRay and the image. Ports are free ones in place of the manifest's,
and names of Services are this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from observability.deployed import deploy_folder
from tests.conftest import free_port
from tests.integration.clusters import ray_node, user_environment
from tests.integration.processes import wait_until

FOLDER = deploy_folder() / "kubernetes"

pytestmark = pytest.mark.timeout(300)


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / "serving" / name).read_text())


@dataclass(frozen=True)
class Head:
    """The head's container: each of its ports, and what stands here in its place."""

    container: dict[str, Any]
    ports: dict[int, int]
    environment: dict[str, str]

    def port(self, named: str | int) -> int:
        """A port by the name or number that a manifest has for it."""
        numbers = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        return self.ports[numbers[named] if isinstance(named, str) else named]


@pytest.fixture
def head() -> Iterator[Head]:
    group = read("raycluster.yaml")["spec"]["headGroupSpec"]
    [container] = group["template"]["spec"]["containers"]
    ports = {port["containerPort"]: free_port() for port in container["ports"]}
    options = {
        name: str(ports[int(value)]) if name.endswith("-port") else value
        for name, value in group["rayStartParams"].items()
    }
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    # What KubeRay and Ray have as defaults, and the manifest names as ports only.
    options |= {
        "num-cpus": str(container["resources"]["limits"]["cpu"]),
        "port": str(ports[named["gcs-server"]]),
        "dashboard-port": str(ports[named["dashboard"]]),
        "ray-client-server-port": str(ports[named["client"]]),
    }
    folder = Path(tempfile.mkdtemp(prefix="ttk", dir="/tmp"))
    environment = user_environment(folder) | {
        # A Ray job's script is found and run in the environment of the head.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": str(ports[8000]),
        "RAY_metrics_report_interval_ms": "1000",  # Ray's own: 10 s
    }
    try:
        with ray_node(environment, folder, "--head", *(f"--{n}={v}" for n, v in options.items())):
            yield Head(container, ports, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_job(head: Head, folder: Path) -> None:
    """What the Job's container runs, with its script from a folder."""
    [container] = read("deploy-job.yaml")["spec"]["template"]["spec"]["containers"]
    [mount] = container["volumeMounts"]
    places = {
        "http://tagtrail-head-svc:8265": f"http://127.0.0.1:{head.port('dashboard')}",
        mount["mountPath"]: str(folder),
    }
    arguments = []
    for argument in container["args"]:
        option, _, value = argument.partition("=")
        arguments.append(f"{option}={places[value]}" if value else argument)
    done = subprocess.run(
        [*container["command"], *arguments],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_script(head: Head, script: Path) -> None:
    """A script on the head node, without the time that a Ray job takes."""
    environment = head.environment | {"RAY_ADDRESS": f"127.0.0.1:{head.port('gcs-server')}"}
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hello_answers_through_the_port_of_the_service(head: Head, tmp_path: Path) -> None:
    script = tmp_path / "deploy.py"
    shutil.copy(FOLDER / "serving" / "deploy.py", script)
    [service_port] = read("service.yaml")["spec"]["ports"]
    address = f"http://127.0.0.1:{head.port(service_port['targetPort'])}"
    probe = head.container["readinessProbe"]["httpGet"]
    healthz = f"http://127.0.0.1:{head.port(probe['port'])}{probe['path']}"
    with pytest.raises(httpx.ConnectError):
        httpx.get(healthz)  # nothing serves yet, so the pod is not ready

    run_job(head, tmp_path)

    answer = httpx.get(f"{address}/hello", timeout=30)
    assert (answer.status_code, answer.text) == (200, "hello world")
    assert httpx.get(healthz).status_code == 200

    # What the PodMonitor asks: the series that the rules want, of this request.
    [endpoint] = [
        monitor["spec"]["podMetricsEndpoints"][0]
        for monitor in yaml.safe_load_all((FOLDER / "monitoring" / "pod-monitors.yaml").read_text())
        if monitor["metadata"]["name"] == "ray"
    ]
    metrics = f"http://127.0.0.1:{head.port(endpoint['port'])}{endpoint['path']}"
    wanted = 'endpoint="hello_endpoint"'
    wait_until(lambda: wanted in httpx.get(metrics, timeout=30).text)

    # The script of overlays/production: a new version takes over, and it can be run again.
    text = (FOLDER / "overlays" / "production" / "deploy.py").read_text()
    text = text.replace('"num_replicas": 2', "").replace('VERSION = "1"', 'VERSION = "2"')
    script.write_text(text.replace('"hello world"', '"hello again"'))
    for _ in range(2):
        run_script(head, script)
        assert httpx.get(f"{address}/hello", timeout=30).text == "hello again"
