"""deploy/kubernetes as Kustomize makes it: valid, and its names and ports those of the code."""

from __future__ import annotations

import copy
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from observability.deployed import deploy_folder
from observability.stack.records import PROMTOOL
from observability.stack.services import default_ports
from serve.config import DEFAULT_PORT
from serve.routes import RESERVED_ROUTES
from tests.integration.custom_resources import KINDS, read_definitions
from tests.integration.programs import KUSTOMIZE, require

KUBERNETES = "1.34"
"""Of the schemas."""

WHOLE = ("overlays/local", "overlays/production")
ALL = ("serving", "records", "monitoring", "base", *WHOLE)

Object = dict[str, Any]


@cache
def render(name: str) -> list[Object]:
    """The objects of a folder of deploy/kubernetes; not to be changed."""
    command = [str(require(KUSTOMIZE)), "build", str(deploy_folder() / "kubernetes" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def find(name: str, kind: str, called: str) -> Object:
    [found] = [o for o in render(name) if o["kind"] == kind and o["metadata"]["name"] == called]
    return found


def ray_groups(name: str) -> Iterator[tuple[Object, str]]:
    """The head's and the workers' part of the cluster, with KubeRay's label for its kind."""
    spec = find(name, "RayCluster", "tagtrail")["spec"]
    yield spec["headGroupSpec"], "head"
    for group in spec["workerGroupSpecs"]:
        yield group, "worker"


def pods(name: str) -> Iterator[Object]:
    """Every pod that will be: metadata and spec, with the labels that KubeRay adds."""
    for made in render(name):
        if made["kind"] in ("Job", "DaemonSet", "StatefulSet"):
            yield copy.deepcopy(made["spec"]["template"])
    if any(made["kind"] == "RayCluster" for made in render(name)):
        for group, node_type in ray_groups(name):
            pod = copy.deepcopy(group["template"])
            pod["metadata"]["labels"] |= {
                "ray.io/cluster": "tagtrail",
                "ray.io/node-type": node_type,
            }
            yield pod


def selected(name: str, labels: dict[str, str]) -> list[Object]:
    return [pod for pod in pods(name) if labels.items() <= pod["metadata"]["labels"].items()]


def ports_of(pod: Object) -> dict[str, int]:
    [container] = pod["spec"]["containers"]
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def validate_custom(made: Object) -> None:
    # The schema itself is not checked: some of its patterns are Go's, not Python's.
    jsonschema.Draft7Validator(read_definitions()[made["kind"]]).validate(made)


@pytest.mark.parametrize("name", ALL)
def test_every_object_is_valid(name: str) -> None:
    for made in render(name):
        if made["kind"] in KINDS:
            validate_custom(made)
        else:
            kubernetes_validate.validate(made, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_the_pods_of_the_ray_cluster_are_valid_pods(name: str) -> None:
    for group, _ in ray_groups(name):
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(group["template"])}
        pod["metadata"]["name"] = "made-by-kuberay"
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_wrong_key_is_found() -> None:
    cluster = copy.deepcopy(find("base", "RayCluster", "tagtrail"))
    cluster["spec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(jsonschema.ValidationError, match="rayStartParam"):
        validate_custom(cluster)
    service = copy.deepcopy(find("base", "Service", "ray-head"))
    service["spec"]["ports"][0]["targetport"] = 8000
    with pytest.raises(kubernetes_validate.ValidationError, match="targetport"):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_the_service_of_the_tutorial_leads_to_the_head_and_its_http_server(name: str) -> None:
    service = find(name, "Service", "ray-head")
    assert service["metadata"]["namespace"] == "ray"
    assert service["spec"].get("clusterIP") != "None"  # else no RAY_HEAD_SERVICE_HOST
    assert service["spec"]["selector"]["component"] == "ray-head"
    [port] = service["spec"]["ports"]
    assert (port["protocol"], port["port"], port["targetPort"]) == ("TCP", 8000, DEFAULT_PORT)

    [head] = selected(name, service["spec"]["selector"])
    assert head["metadata"]["labels"]["ray.io/node-type"] == "head"
    wanted = {"serve": DEFAULT_PORT, "metrics": 8080, "dashboard": 8265}
    assert wanted.items() <= ports_of(head).items()


def test_in_production_a_service_leads_to_every_node_and_the_ingress_to_it() -> None:
    service = find("overlays/production", "Service", "ray-serve")
    found = selected("overlays/production", service["spec"]["selector"])
    assert {pod["metadata"]["labels"]["ray.io/node-type"] for pod in found} == {"head", "worker"}
    assert all(ports_of(pod)["serve"] == DEFAULT_PORT for pod in found)
    [port] = service["spec"]["ports"]
    [rule] = find("overlays/production", "Ingress", "ray-serve")["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "ray-serve", "port": {"name": port["name"]}}


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_who_has_an_http_server_is_probed_for_it(name: str) -> None:
    for group, node_type in ray_groups(name):
        [container] = group["template"]["spec"]["containers"]
        has_server = node_type == "head" or name == "overlays/production"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert (probe in container) == has_server
            if has_server:
                assert container[probe]["httpGet"] == {"path": "/-/healthz", "port": "serve"}
    assert "/-/healthz" in RESERVED_ROUTES


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_ray_starts_with_the_ports_that_the_pods_name(name: str) -> None:
    for group, node_type in ray_groups(name):
        named = ports_of(group["template"])
        assert int(group["rayStartParams"]["metrics-export-port"]) == named["metrics"]
        if node_type == "head":
            assert group["rayStartParams"]["dashboard-host"] == "0.0.0.0"


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_the_job_speaks_to_the_dashboard_of_this_cluster(name: str) -> None:
    template = find(name, "Job", "tagtrail-deploy")["spec"]["template"]["spec"]
    [container] = template["containers"]
    assert container["args"][0] == "--address=http://tagtrail-head-svc:8265"  # KubeRay's name
    [mount] = container["volumeMounts"]
    assert f"--working-dir={mount['mountPath']}" in container["args"]
    [volume] = template["volumes"]
    script = find(name, "ConfigMap", volume["configMap"]["name"])["data"]
    assert container["args"][-1] in script
    secret = "authOptions" in find(name, "RayCluster", "tagtrail")["spec"]
    assert secret == ("RAY_AUTH_TOKEN" in [e["name"] for e in container.get("env", [])])


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_alloy_looks_where_the_kubelet_keeps_what_ray_writes(name: str) -> None:
    [config] = [
        made["data"]["config.alloy"]
        for made in render(name)
        if made["kind"] == "ConfigMap" and "config.alloy" in made["data"]
    ]
    for group, _ in ray_groups(name):
        spec = group["template"]["spec"]
        [volume] = [v["name"] for v in spec["volumes"] if "emptyDir" in v]
        assert spec["containers"][0]["volumeMounts"] == [{"name": volume, "mountPath": "/tmp/ray"}]
        assert (
            f"/var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/{volume}/session_2" in config
        )
    [container] = find(name, "DaemonSet", "alloy")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/var/lib/kubelet/pods"]["readOnly"] is True
    assert [entry["name"] for entry in container["env"]] == ["NODE_NAME"]

    service = find(name, "Service", "loki")
    [port] = service["spec"]["ports"]
    assert port["port"] == default_ports()["loki"]
    assert f'"http://loki:{port["port"]}/loki/api/v1/push"' in config


@pytest.mark.parametrize("name", ["base", "overlays/production"])
@pytest.mark.parametrize("job", ["ray", "alloy", "loki"])
def test_prometheus_finds_pods_with_that_port_and_calls_the_job_as_the_rules_do(
    name: str, job: str
) -> None:
    spec = find(name, "PodMonitor", job)["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    found = selected(name, spec["selector"]["matchLabels"])
    assert len(found) == (2 if job == "ray" else 1)
    assert all(endpoint["port"] in ports_of(pod) for pod in found)
    named, dropped = endpoint["relabelings"]
    assert named == {"action": "replace", "targetLabel": "job", "replacement": job}
    # Else the operator's own `endpoint`, the port, would hide the label that names the endpoint.
    assert dropped == {"action": "labeldrop", "regex": "endpoint"}


def test_the_rules_of_the_cluster_pass_promtool() -> None:
    for called in ("tagtrail-recording", "tagtrail-alerts"):
        rule = find("base", "PrometheusRule", called)
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump(rule["spec"], file)
            file.flush()
            command = [str(require(PROMTOOL)), "check", "rules", file.name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_dashboard_is_there_with_the_label_of_grafanas_sidecar() -> None:
    boards = [
        made
        for made in render("base")
        if made["metadata"].get("labels", {}).get("grafana_dashboard") == "1"
    ]
    texts = {file: text for board in boards for file, text in board["data"].items()}
    folder = deploy_folder() / "grafana" / "dashboards"
    assert texts == {path.name: path.read_text() for path in folder.glob("*.json")}
    sources = find("base", "ConfigMap", "tagtrail-datasources")
    assert sources["metadata"]["labels"] == {"grafana_datasource": "1"}


@pytest.mark.parametrize("name", ["base", *WHOLE])
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    for pod in pods(name):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] in {
            made["metadata"]["name"] for made in render(name) if made["kind"] == "ServiceAccount"
        }
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        reads_the_node = pod["metadata"]["labels"].get("app.kubernetes.io/name") == "alloy"
        assert spec["securityContext"].get("runAsNonRoot", False) != reads_the_node
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert "@" in container["image"] or container["image"].rpartition(":")[2] != "latest"
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
    assert not [made for made in render(name) if made["kind"].endswith(("Role", "RoleBinding"))]


def test_in_production_nothing_is_reached_that_is_not_named() -> None:
    name = "overlays/production"
    policies = [made["spec"] for made in render(name) if made["kind"] == "NetworkPolicy"]
    for policy in policies:
        assert policy["policyTypes"] == ["Ingress"]
        found = selected(name, policy["podSelector"]["matchLabels"])
        assert found
        for rule in policy["ingress"]:
            for port in rule.get("ports", []):
                assert any(port["port"] in ports_of(pod) for pod in found)
            for peer in rule.get("from", []):
                if "podSelector" in peer:
                    assert selected(name, peer["podSelector"]["matchLabels"])
            if "from" not in rule:
                assert [port["port"] for port in rule["ports"]] == ["serve"]
    covered = [p["podSelector"]["matchLabels"] for p in policies]
    for pod in pods(name):
        labels = pod["metadata"]["labels"]
        is_job = labels.get("app.kubernetes.io/name") == "tagtrail-deploy"  # listens on nothing
        assert is_job or any(wanted.items() <= labels.items() for wanted in covered)


def test_in_production_some_pod_of_each_kind_stays() -> None:
    name = "overlays/production"
    replicas = {"ray-head": 1}
    for group in find(name, "RayCluster", "tagtrail")["spec"]["workerGroupSpecs"]:
        replicas["ray-workers"] = group["replicas"]
    for called, count in replicas.items():
        spec = find(name, "PodDisruptionBudget", called)["spec"]
        assert len(selected(name, spec["selector"]["matchLabels"])) == 1  # one kind of pod
        assert spec["minAvailable"] == 1 <= count


def test_in_production_records_are_on_a_volume_of_their_own() -> None:
    loki = find("overlays/production", "StatefulSet", "loki")["spec"]
    [claim] = loki["volumeClaimTemplates"]
    [container] = loki["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"-common.path-prefix={mounts[claim['metadata']['name']]}" in container["args"]
    assert claim["metadata"]["name"] not in [v["name"] for v in loki["template"]["spec"]["volumes"]]


def test_the_port_of_the_machine_leads_to_the_service_in_kind() -> None:
    config = yaml.safe_load(
        (deploy_folder() / "kubernetes" / "overlays" / "local" / "kind.yaml").read_text()
    )
    [mapping] = config["nodes"][0]["extraPortMappings"]
    service = find("overlays/local", "Service", "ray-head")
    assert service["spec"]["type"] == "NodePort"
    assert mapping["containerPort"] == service["spec"]["ports"][0]["nodePort"]
