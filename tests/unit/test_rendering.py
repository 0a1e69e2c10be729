"""The files of deploy/ with other addresses and paths in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from observability.deployed import deploy_folder
from observability.stack.rendering import (
    DASHBOARD_FOLDER,
    RAY_FOLDER,
    Changes,
    changes_for,
    render,
    render_files,
)
from observability.stack.services import SERVICES, Service, default_ports

ELSEWHERE = {name: port + 20_000 for name, port in default_ports().items()}


def files(service: Service) -> dict[str, str]:
    folder = deploy_folder() / service.folder
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_addresses_change_all_at_once_so_two_may_swap() -> None:
    changes = Changes({9090: 9093, 9093: 9090}, {})
    text = "http://127.0.0.1:9090/x, localhost:9093, 127.0.0.1:90901, example.org:9090, :9090"
    assert render(text, changes) == (
        "http://127.0.0.1:9093/x, localhost:9090, 127.0.0.1:90901, example.org:9090, :9090"
    )


def test_a_path_changes_only_where_it_is_the_whole_name() -> None:
    changes = Changes({}, {"/tmp/ray": "/var/ray"})
    text = "[/tmp/ray/a.json] '/tmp/ray' /tmp/rays /tmp/ray-x /tmp/ray.d /var/tmp/ray; df /tmp/ray."
    assert render(text, changes) == (
        "[/var/ray/a.json] '/var/ray' /tmp/rays /tmp/ray-x /tmp/ray.d /var/tmp/ray; df /var/ray."
    )


def test_a_path_with_a_backslash_is_taken_as_it_is() -> None:
    assert render("/tmp/ray/x", Changes({}, {"/tmp/ray": r"/a\1"})) == r"/a\1/x"


def test_files_in_which_nothing_differs_are_read_where_they_are() -> None:
    same = changes_for(default_ports(), RAY_FOLDER, DASHBOARD_FOLDER)
    for service in SERVICES:
        assert render_files(files(service), same) is None


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_no_old_address_or_path_is_left_in_what_a_program_reads(service: Service) -> None:
    changes = changes_for(ELSEWHERE, "/elsewhere/ray", "/elsewhere/dashboards")
    rendered = render_files(files(service), changes) or files(service)
    ports = "|".join(map(str, default_ports().values()))
    for name, text in rendered.items():
        lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        assert not re.search(rf"(127\.0\.0\.1|localhost):({ports})\b", lines), name
        assert RAY_FOLDER not in lines, name
        assert DASHBOARD_FOLDER not in lines, name


def test_prometheus_is_told_where_the_others_went() -> None:
    folder = deploy_folder() / "prometheus"
    changes = changes_for(ELSEWHERE, "/elsewhere/ray", DASHBOARD_FOLDER)
    config = yaml.safe_load(render((folder / "prometheus.yml").read_text(), changes))
    alerting = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert alerting == ["127.0.0.1:29093"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["loki"]["static_configs"][0]["targets"] == ["127.0.0.1:23100"]
    assert jobs["ray"]["file_sd_configs"][0]["files"] == [
        "/elsewhere/ray/prom_metrics_service_discovery.json"
    ]


def test_grafana_finds_data_and_dashboards() -> None:
    folder = deploy_folder() / "grafana" / "provisioning"
    changes = changes_for(ELSEWHERE, RAY_FOLDER, str(Path("/here/dashboards")))
    sources = yaml.safe_load(
        render((folder / "datasources" / "tagtrail.yaml").read_text(), changes)
    )["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://127.0.0.1:29090",
        "loki": "http://127.0.0.1:23100",
        "alertmanager": "http://127.0.0.1:29093",
        "jaeger": "http://127.0.0.1:16686",
    }
    boards = yaml.safe_load(render((folder / "dashboards" / "tagtrail.yaml").read_text(), changes))
    assert boards["providers"][0]["options"]["path"] == "/here/dashboards"
