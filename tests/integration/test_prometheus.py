"""deploy/prometheus with the real promtool, and with a real Prometheus that scrapes an instance."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray._private.metrics_agent import PrometheusServiceDiscoveryWriter

import serve
from observability.grafana.boards import BOARDS
from observability.grafana.records import Board, Panel, Source
from observability.stack.records import PROMTOOL
from serve.session import session_folder
from tests.integration.conftest import Instance
from tests.integration.pipelines import Pipeline, make_pipeline
from tests.integration.processes import ROOT, wait_until
from tests.integration.programs import require
from tests.integration.stations import run_prometheus

pytestmark = pytest.mark.timeout(600)  # of several waits

FOLDER = ROOT / "deploy" / "prometheus"
SCRAPED = ("ray", "tagtrail", "vlagent", "victoria-logs")
ASKED, FAILED = 40, 10

Ask = Callable[[str], list[tuple[dict[str, str], float]]]


@pytest.mark.parametrize("name", ["recording", "alerts"])
def test_the_rules_do_what_their_unit_tests_say(name: str) -> None:
    run(require(PROMTOOL), "test", "rules", str(ROOT / "tests" / "promtool" / f"{name}.yml"))


def test_every_alert_has_a_unit_test() -> None:
    groups = yaml.safe_load((FOLDER / "rules" / "alerts.yml").read_text())["groups"]
    names = {rule["alert"] for group in groups for rule in group["rules"]}
    tests = yaml.safe_load((ROOT / "tests" / "promtool" / "alerts.yml").read_text())["tests"]
    seen = [test for case in tests for test in case["alert_rule_test"]]
    assert {test["alertname"] for test in seen if test["exp_alerts"]} == names


def test_the_configuration_is_one_that_prometheus_takes() -> None:
    run(require(PROMTOOL), "check", "config", str(FOLDER / "prometheus.yml"))


def run(program: Path, *args: str) -> None:
    done = subprocess.run([program, *args], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def half(request: Any) -> str:
    if request.query_params.get("fail"):
        raise ValueError("asked to")
    return "well"


@pytest.fixture(scope="module")
def logs(ray_folder: Path, shared_instance: Instance, tmp_path_factory: Any) -> Iterator[Pipeline]:
    """The log pipeline that is scraped."""
    made = make_pipeline("victoria", tmp_path_factory.mktemp("logs"), ray_folder)
    with made.running() as running:
        yield running


@pytest.fixture(scope="module")
def ask(
    ray_folder: Path, shared_instance: Instance, logs: Pipeline, tmp_path_factory: Any
) -> Iterator[Ask]:
    """Asks a Prometheus with the configuration as it is, but for folder, ports and patience."""
    gcs_address = ray.get_runtime_context().gcs_address
    # Ray's dashboard runs this; the tests' Ray has none.
    PrometheusServiceDiscoveryWriter(gcs_address, str(ray_folder), session_folder()).write()
    text = (FOLDER / "prometheus.yml").read_text().replace("/tmp/ray/", f"{ray_folder}/")
    for usual, address in zip(("127.0.0.1:9429", "127.0.0.1:9428"), logs.addresses(), strict=True):
        text = text.replace(usual, address)
    config = yaml.safe_load(text)
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in SCRAPED]
    rules = [str(FOLDER / "rules" / "*.yml")]
    with run_prometheus(tmp_path_factory.mktemp("prometheus"), jobs, rules) as url:
        with httpx.Client(base_url=url, timeout=30) as http:

            def query(text: str) -> list[tuple[dict[str, str], float]]:
                answer = http.get("/api/v1/query", params={"query": text}).json()
                assert answer["status"] == "success", answer
                return [(r["metric"], float(r["value"][1])) for r in answer["data"]["result"]]

            query.http = http  # type: ignore[attr-defined]
            yield query


@dataclass
class Asked:
    """An endpoint, and how often it was asked.

    Attributes:
        name: of the endpoint, and of its backend.
        http: asks it.
        count: requests so far.
        failed: those among them that were answered with 500.
    """

    name: str
    http: httpx.Client
    count: int = 0
    failed: int = 0

    def request(self, *, fails: bool = False) -> None:
        """Ask once more."""
        answer = self.http.get(f"/{self.name}", params={"fail": "1"} if fails else None)
        assert answer.status_code == (500 if fails else 200)
        self.count += 1
        self.failed += fails


@pytest.fixture(scope="module")
def asked(shared_instance: Instance, ask: Ask) -> Asked:
    """An endpoint that was asked, a quarter of the time in vain."""
    asked = Asked("half", shared_instance.http)
    serve.create_backend(asked.name, half, config={"num_replicas": 2})
    serve.create_endpoint(asked.name, backend=asked.name, route=f"/{asked.name}")
    for number in range(ASKED):
        asked.request(fails=number < FAILED)
    return asked


@pytest.mark.parametrize("job", ["ray", "tagtrail"])
def test_both_ways_out_are_found_and_scraped(ask: Ask, asked: Asked, job: str) -> None:
    wait_until(lambda: ask(f'up{{job="{job}"}} == 1'), 90)
    series = f'ray_serve_endpoint_requests_total{{job="{job}", endpoint="{asked.name}"}}'
    wait_until(lambda: ask(f"sum({series})") == [({}, asked.count)], 90)
    assert ask(f'sum by (way) ({series[:-1]}, status_class="5xx"}})') == [
        ({"way": "http"}, asked.failed)
    ]


def test_every_recorded_series_has_data(ask: Ask, asked: Asked) -> None:
    groups = yaml.safe_load((FOLDER / "rules" / "recording.yml").read_text())["groups"]
    records = [rule["record"] for group in groups for rule in group["rules"]]
    wanted = [f'{r}{{{r.partition(":")[0]}=~"{asked.name}(#.*)?"}}' for r in records]
    wanted += [
        f'endpoint:serve_errors:ratio5m{{endpoint="{asked.name}"}} > 0',
        f'endpoint:serve_latency_ms:p99{{endpoint="{asked.name}"}} > 0',
        f'backend:serve_replicas:running{{backend="{asked.name}"}} == 2',
    ]
    for expr in wanted:

        def answer(expr: str = expr) -> Any:
            asked.request(fails=True)  # what came before Prometheus's first look is no rate
            return ask(expr)

        wait_until(answer, 90)


def test_prometheus_evaluates_every_rule_without_an_error(ask: Ask) -> None:
    def rules() -> list[dict[str, Any]]:
        answer = ask.http.get("/api/v1/rules").json()  # type: ignore[attr-defined]
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), 90)
    assert rules()
    assert [rule for rule in rules() if rule["health"] != "ok"] == []


# The dashboards' queries.

PANELS = [
    (board, panel)
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
    if panel.source is Source.PROMETHEUS
]
HANDED_IN = re.compile("promtail_|loki_")
"""Series of programs that are not here."""


def fill(expr: str, name: str) -> str:
    """The query as Grafana sends it when this endpoint and backend are chosen."""
    chosen = {"$__rate_interval": "1m", "$endpoint": name, "$replica": f"{name}#.*"}
    chosen |= {f"${variable}": name for variable in ("backend", "baseline", "canary")}
    for variable, value in chosen.items():
        expr = expr.replace(variable, value)
    return expr


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=lambda part: getattr(part, "title", ""))
def test_every_query_of_a_dashboard_has_data(
    ask: Ask, asked: Asked, board: Board, panel: Panel
) -> None:
    for query in panel.queries:
        if HANDED_IN.search(query.expr):
            continue

        def values(expr: str = fill(query.expr, asked.name)) -> list[float]:
            asked.request()
            return [value for _, value in ask(expr) if not math.isnan(value)]

        wait_until(values, 90)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.title)
def test_every_choice_of_a_dashboard_offers_what_there_is(
    ask: Ask, asked: Asked, board: Board
) -> None:
    for variable in board.variables:
        if not variable.values:
            continue
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable.values)
        assert found is not None
        path = f"/api/v1/label/{found[2]}/values"
        answer = ask.http.get(path, params={"match[]": fill(found[1], asked.name)})  # type: ignore[attr-defined]
        offered = answer.json()["data"]
        assert any(value.partition("#")[0] == asked.name for value in offered), offered
