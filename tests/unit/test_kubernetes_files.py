"""deploy/kubernetes, deploy/ray and the Dockerfile held to the files and versions they repeat."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.deployed import deploy_folder
from observability.stack.services import BY_NAME, Place, default_ports
from tests.promql import ROOT
from tests.unit.test_docs import load_generator

DEPLOY = deploy_folder()
KUBERNETES = DEPLOY / "kubernetes"
PROJECT = (ROOT / "pyproject.toml").read_text()
[VERSION] = re.findall(r'^version = "(.*)"$', PROJECT, re.M)
RAY = "2.60.0"
"""The version of images and of the launcher."""


def read(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def container_of(path: Path, kind: str) -> dict[str, Any]:
    [made] = [made for made in read(path) if made["kind"] == kind]
    [container] = made["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_alloy_in_a_cluster_does_the_same_but_for_paths_address_and_the_nodes_name() -> None:
    here = (DEPLOY / "alloy" / "config.alloy").read_text().splitlines()
    there = (KUBERNETES / "records" / "config.alloy").read_text().splitlines()
    bare = [
        [re.sub(r"\s+", " ", line).strip() for line in lines if not line.startswith("//")]
        for lines in (here, there)
    ]
    changes = [line for line in difflib.ndiff(*bare) if line[0] in "+-"]
    pods = "/var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/tagtrail-ray"
    assert [line[2:] for line in changes if line[0] == "-"] == [
        '__path__ = "/tmp/ray/session_latest/logs/*.*",',
        '__path__ = "/tmp/ray/session_2*/logs/serve/*.log",',
        'url = "http://127.0.0.1:3100/loki/api/v1/push"',
    ]
    assert [line[2:] for line in changes if line[0] == "+"] == [
        f'__path__ = "{pods}/session_2*/logs/*.*",',
        'kube_node = sys.env("NODE_NAME"),',
        f'__path__ = "{pods}/session_2*/logs/serve/*.log",',
        'kube_node = sys.env("NODE_NAME"),',
        'url = "http://loki:3100/loki/api/v1/push"',
    ]


@pytest.mark.parametrize(("name", "kind"), [("loki", "StatefulSet"), ("alloy", "DaemonSet")])
def test_a_program_gets_the_arguments_that_the_stack_gives_it(name: str, kind: str) -> None:
    service = BY_NAME[name]
    container = container_of(KUBERNETES / "records" / f"{name}.yaml", kind)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    config = Path(mounts["config"]) / service.config
    place = Place(Path("/usr/bin", name), config, Path(mounts["data"]), default_ports())
    port = default_ports()[name]
    wanted = [
        # Others reach it, not this machine alone; but for what only Loki itself speaks.
        argument.replace(f"127.0.0.1:{port}", f"0.0.0.0:{port}").replace(
            "-server.http-listen-address=127.0.0.1", "-server.http-listen-address=0.0.0.0"
        )
        for argument in service.arguments(place)
    ]
    assert container["args"] == wanted
    assert [p["containerPort"] for p in container["ports"]] == [port]
    assert container["readinessProbe"]["httpGet"]["path"] == service.health_path
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert container["image"] == compose[name]["image"]


def test_the_deploy_script_is_the_tutorials() -> None:
    script = (KUBERNETES / "serving" / "deploy.py").read_text()
    assert script == (ROOT / "examples" / "hello.py").read_text()


def test_the_rules_are_those_of_prometheus() -> None:
    assert load_generator("generate_kubernetes_rules").stale() == [], (
        "Run: python tools/generate_kubernetes_rules.py"
    )


def test_the_data_sources_differ_in_their_addresses_only() -> None:
    [here] = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "tagtrail.yaml")
    [there] = read(KUBERNETES / "monitoring" / "datasources.yaml")
    assert not any(source.pop("isDefault", False) for source in there["datasources"])
    addresses = {source["uid"]: source.pop("url") for source in there["datasources"]}
    for source in here["datasources"]:
        source.pop("isDefault", None)
        source.pop("url")
    assert here == there
    assert all("127.0.0.1" not in address for address in addresses.values())
    assert addresses["tagtrail-loki"] == f"http://loki.ray:{default_ports()['loki']}"


def test_every_dashboard_is_listed() -> None:
    [listed] = read(DEPLOY / "grafana" / "kustomization.yaml")
    files = {file for made in listed["configMapGenerator"] for file in made["files"]}
    folder = DEPLOY / "grafana"
    assert files == {p.relative_to(folder).as_posix() for p in folder.glob("dashboards/*.json")}


def test_one_version_of_ray_is_everywhere_and_is_one_that_tagtrail_takes() -> None:
    [least] = re.findall(r'"ray\[default\]>=([\d.]+)"', PROJECT)
    assert f"{least}.0" == RAY
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.findall(r"^ARG RAY_VERSION=(.*)$", dockerfile, re.M) == [RAY]
    assert "FROM rayproject/ray:${RAY_VERSION}-py311" in dockerfile
    [cluster] = read(KUBERNETES / "serving" / "raycluster.yaml")
    assert cluster["spec"]["rayVersion"] == RAY
    [launched] = read(DEPLOY / "ray" / "cluster.yaml")
    assert any(f"ray[default]=={RAY}" in command for command in launched["setup_commands"])


def test_the_image_has_tagtrails_version() -> None:
    image = f"tagtrail:{VERSION}"
    assert f"--tag {image} " in (DEPLOY / "Dockerfile").read_text()
    [cluster] = read(KUBERNETES / "serving" / "raycluster.yaml")
    images = re.findall(r'"image": "([^"]*)"', json.dumps(cluster))
    assert images == [image, image]
    assert container_of(KUBERNETES / "serving" / "deploy-job.yaml", "Job")["image"] == image
    [production] = read(KUBERNETES / "overlays" / "production" / "kustomization.yaml")
    assert [made["newTag"] for made in production["images"]] == [VERSION]


def test_the_launcher_starts_ray_with_the_port_that_is_scraped() -> None:
    [launched] = read(DEPLOY / "ray" / "cluster.yaml")
    for role in ("head", "worker"):
        stop, start = launched[f"{role}_start_ray_commands"]
        assert stop.endswith("ray stop")
        assert " --metrics-export-port=8080" in start
        assert (" --head " in start) == (role == "head")
    nodes = len(launched["provider"]["worker_ips"])
    assert launched["min_workers"] == launched["max_workers"] == nodes
