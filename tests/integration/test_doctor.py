"""`tagtrail doctor`, as typed, with a real instance, Prometheus, VictoriaLogs and its agent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray._private.metrics_agent import PrometheusServiceDiscoveryWriter

import serve
from observability.doctor.agents import AGENTS
from observability.grafana.records import PROMETHEUS_UID
from observability.trail.query import Query
from observability.trail.segments import SegmentFolder
from serve.session import segment_folder, session_folder
from serve.status import describe
from tests.conftest import free_port
from tests.integration.command import tagtrail, typed_tagtrail
from tests.integration.conftest import Deploy, Instance
from tests.integration.grafana_api import TOKEN, run_grafana_api
from tests.integration.processes import ROOT, wait_until
from tests.integration.stations import run_prometheus, run_victoria_logs, run_vlagent

Report = dict[str, Any]


def doctor(address: str, *options: str, code: int = 0) -> Report:
    """The report, once its exit code is the expected one; findings by station."""
    done = tagtrail("--address", address, "doctor", "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    report: Report = json.loads(done.stdout)
    return report | {finding["station"]: finding for finding in report["stations"]}


def outcomes(report: Report) -> dict[str, str]:
    return {finding["station"]: finding["outcome"] for finding in report["stations"]}


def hello(request: Any) -> str:
    return "hello"


@pytest.fixture
def segments(shared_instance: Instance) -> Path:
    return Path(segment_folder())


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Iterator[str]:
    with run_victoria_logs(tmp_path_factory.mktemp("victoria-logs")) as url:
        yield url


@pytest.fixture(scope="module")
def jobs(shared_instance: Instance, ray_folder: Path) -> list[dict[str, Any]]:
    """The jobs of deploy/prometheus that look at an instance, for the tests' folder of Ray."""
    gcs_address = ray.get_runtime_context().gcs_address
    # Ray's dashboard runs this; the tests' Ray has none.
    PrometheusServiceDiscoveryWriter(gcs_address, str(ray_folder), session_folder()).write()
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    found = yaml.safe_load(text.replace("/tmp/ray/", f"{ray_folder}/"))["scrape_configs"]
    return [job for job in found if job["job_name"] in ("ray", "tagtrail")]


def page_address() -> str:
    (ingress,) = describe(serve.connect().status(), "")["ingresses"]
    address: str = ingress["metrics"]
    return address.removeprefix("http://").removesuffix("/metrics")


def jobs_up(prometheus: str) -> set[str]:
    """The jobs of which Prometheus reaches a target."""
    answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": "up == 1"})
    return {series["metric"]["job"] for series in answer.json()["data"]["result"]}


def test_the_canary_comes_through_at_every_station(
    ray_address: str,
    segments: Path,
    store: str,
    jobs: list[dict[str, Any]],
    deploy: Deploy,
    ray_folder: Path,
    tmp_path: Path,
) -> None:
    name = deploy(hello, route="/hello")
    folders = [tmp_path / program for program in ("agent", "prometheus")]
    for folder in folders:
        folder.mkdir()
    with (
        run_vlagent(folders[0], ray_folder, store) as agent,
        run_prometheus(folders[1], jobs) as prometheus,
        run_grafana_api() as grafana,
    ):
        grafana.sources[PROMETHEUS_UID] = {}
        wait_until(lambda: {"ray", "tagtrail"} <= jobs_up(prometheus))
        options = ["--victoria-logs", store, "--agent", agent, "--prometheus", prometheus]
        options += ["--grafana", grafana.url, "--grafana-token", TOKEN, "--timeout", "40"]

        def both_scraped(*more: str) -> Report:
            """A report at whose time neither job had just missed a scrape: each has a second."""
            report = doctor(ray_address, *options, *more)
            return report if "ray, tagtrail" in report["prometheus"]["detail"] else {}

        report = wait_until(both_scraped)
        asked = wait_until(lambda: both_scraped("--path", "/hello"))
    for found in (report, asked):
        assert set(outcomes(found).values()) == {"ok"}, found
        assert len(found["stations"]) == 10
        assert found["healthy"] is True and found["stopped_at"] is None
        assert "VictoriaLogs has the record" in found["log store"]["detail"]
        assert grafana.writes == []
    # The first one no endpoint has seen.
    query = Query(request_id=report["canary"])
    (record,) = SegmentFolder(segments).read(query)
    assert (record["component"], record["error"]) == ("ingress", "not_found")
    (record,) = SegmentFolder(segments).read(Query(request_id=asked["canary"]))
    assert (record["component"], record["backend"]) == ("serve", name)


def test_no_endpoint_sees_the_canary_not_even_one_that_takes_every_path(
    ray_address: str, segments: Path, deploy: Deploy
) -> None:
    name = deploy(hello, route="/{rest:path}")
    report = doctor(ray_address, code=0)
    assert report["answer"]["outcome"] == report["segment"]["outcome"] == "ok"
    (record,) = SegmentFolder(segments).read(Query(request_id=report["canary"]))
    assert record["component"] == "ingress"
    assert not list(SegmentFolder(segments).read(Query(backend=name, text=report["canary"])))


def test_the_lines_for_people_say_what_is_there_and_end_with_a_sentence(
    ray_address: str, segments: Path
) -> None:
    done = typed_tagtrail("--address", ray_address, "doctor", timeout_s=150)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert [line[0] for line in lines[:4]] == ["✓"] * 4
    assert lines[2].startswith("✓ answer        404 of the ingress")
    assert lines[-1].startswith("All is well at: ray, instance, answer, segment")
    assert "\x1b" not in done.stdout and done.stderr == ""


def test_without_an_agent_it_stops_at_the_store_and_says_so(
    ray_address: str, segments: Path, store: str
) -> None:
    for kind in AGENTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", kind.port)) == 0:
                pytest.skip(f"something listens on the port of {kind.name}, {kind.port}")
    report = doctor(ray_address, "--victoria-logs", store, "--timeout", "2", code=3)
    assert report["stopped_at"] == "log store"
    assert "No log agent brings records there" in report["log store"]["cause"]
    assert report["segment"]["outcome"] == report["metrics page"]["outcome"] == "ok"


def test_a_killed_agent_that_was_named_is_where_it_stops(
    ray_address: str, segments: Path, store: str
) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    options = ("--victoria-logs", store, "--agent", gone, "--timeout", "2")
    report = doctor(ray_address, *options, code=3)
    assert report["stopped_at"] == "log agent"
    assert report["log agent"]["cause"] == "The agent does not run."
    assert report["log store"]["outcome"] == "failed"


def test_an_agent_that_reads_another_folder_is_the_cause(
    ray_address: str, segments: Path, store: str, tmp_path: Path
) -> None:
    with run_vlagent(tmp_path, tmp_path / "elsewhere", store) as agent:
        options = ("--victoria-logs", store, "--agent", agent, "--timeout", "4")
        report = doctor(ray_address, *options, code=3)
    assert report["stopped_at"] == "log store"
    assert (
        f"vlagent has read nothing: it looks into another folder than {segments}"
        in (report["log store"]["cause"])
    )


def test_an_agent_that_does_not_reach_its_store_is_the_cause(
    ray_address: str, ray_folder: Path, store: str, tmp_path: Path
) -> None:
    with run_vlagent(tmp_path, ray_folder, f"http://127.0.0.1:{free_port()}") as agent:
        options = ("--victoria-logs", store, "--agent", agent, "--timeout", "12")
        report = doctor(ray_address, *options, code=3)
    assert report["stopped_at"] == "log store"
    assert "vlagent does not reach its store" in report["log store"]["cause"]


def test_a_target_that_is_down_is_told_with_prometheuss_own_words(
    ray_address: str, segments: Path, tmp_path: Path
) -> None:
    statics = [{"targets": [page_address()]}]
    job = {"job_name": "tagtrail", "static_configs": statics, "sample_limit": 1}
    with run_prometheus(tmp_path, [job]) as prometheus:
        report = doctor(ray_address, "--prometheus", prometheus, "--timeout", "5", code=3)
    assert report["stopped_at"] == "prometheus"
    assert "sample limit" in report["prometheus"]["detail"]
    assert "does not reach the page of the job tagtrail" in report["prometheus"]["cause"]


def test_a_prometheus_that_looks_elsewhere_is_told_which_files_to_read(
    ray_address: str, segments: Path, ray_folder: Path, tmp_path: Path
) -> None:
    job = {"job_name": "ray", "file_sd_configs": [{"files": ["/tmp/ray-elsewhere/x.json"]}]}
    with run_prometheus(tmp_path, [job]) as prometheus:
        report = doctor(ray_address, "--prometheus", prometheus, "--timeout", "2", code=3)
    assert report["stopped_at"] == "prometheus"
    wanted = f"{ray_folder}/prom_metrics_service_discovery.json"
    assert (
        f"does not look where this instance's addresses are written: {wanted}"
        in (report["prometheus"]["cause"])
    )


def test_a_backend_without_an_access_log_stops_at_the_segment(
    ray_address: str, deploy: Deploy
) -> None:
    deploy(hello, route="/silent", logging_config={"access_log": False})
    report = doctor(ray_address, "--path", "/silent", code=3)
    assert report["stopped_at"] == "segment"
    assert "access_log is off" in report["segment"]["cause"]
    assert report["log store"]["outcome"] == "skipped"
    assert report["metrics page"]["outcome"] == "ok"


def test_without_a_cluster_it_says_how_to_start_one() -> None:
    report = doctor("127.0.0.1:1", code=1)
    assert outcomes(report) == {"ray": "failed"}
    assert "ray start --head" in report["ray"]["next"]
