"""The dashboards, held to the tables of fields and metrics and to what is provisioned."""

from __future__ import annotations

import importlib.util
import json
import re
from types import ModuleType

import pytest
import yaml

from observability.catalog import METRICS
from observability.fields import FIELDS, Role
from observability.grafana.boards import BOARDS
from observability.grafana.records import LOKI_UID, PROMETHEUS_UID, Board, Source, View
from serve.command.grafana import PROGRAMS
from tests.promql import ROOT, check_selectors, read_rules, recorded_in

FOLDER = ROOT / "deploy" / "grafana"
PANELS = [(board, panel) for board in BOARDS for row in board.rows for panel in row.panels]
GRAFANAS_OWN = {"__rate_interval", "__auto"}
RECORDED = {rule["record"]: rule["expr"] for rule in read_rules() if "record" in rule}


def queries(board: Board, source: Source) -> list[str]:
    return [
        query.expr
        for row in board.rows
        for panel in row.panels
        if panel.source is source
        for query in panel.queries
    ]


def load_generator() -> ModuleType:
    pytest.importorskip("grafana_foundation_sdk", reason="grafana-foundation-sdk needs Python 3.11")
    path = ROOT / "tools" / "generate_dashboards.py"
    spec = importlib.util.spec_from_file_location("generate_dashboards", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_code_says() -> None:
    assert load_generator().stale() == [], "Run: python tools/generate_dashboards.py"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_dashboard_is_found_by_its_uid_and_its_panels_lie_side_by_side(board: Board) -> None:
    made = json.loads((FOLDER / "dashboards" / f"{board.name}.json").read_text())
    assert made["uid"] == board.uid
    places = [panel["gridPos"] for panel in made["panels"]]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    ids = [panel["id"] for panel in made["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_metrics_are_asked_for_by_names_and_tags_they_have(board: Board) -> None:
    for expr in queries(board, Source.PROMETHEUS):
        check_selectors(expr)
        assert recorded_in(expr) <= set(RECORDED)


def test_every_metric_is_shown_somewhere() -> None:
    asked = [expr for board in BOARDS for expr in queries(board, Source.PROMETHEUS)]
    while more := {RECORDED[name] for expr in asked for name in recorded_in(expr)} - set(asked):
        asked += more
    shown = {name for expr in asked for name in check_selectors(expr)}
    assert [metric.name for metric in METRICS if not shown & set(metric.series)] == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_records_are_asked_for_by_labels_and_metadata(board: Board) -> None:
    labels = {field.name for field in FIELDS if field.role is Role.LABEL}
    metadata = {field.name for field in FIELDS if field.role is Role.METADATA}
    for expr in queries(board, Source.LOKI):
        (selector,) = re.findall(r"\{([^}]*)\}(?=[ \[|]|$)", expr.split(" | json")[0])
        assert set(re.findall(r"(\w+)=", selector)) <= {"job", *labels}
        assert set(re.findall(r"\| (\w+)=", expr)) <= metadata


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_choice_is_used_and_every_name_is_a_choice(board: Board) -> None:
    texts = [*queries(board, Source.PROMETHEUS), *queries(board, Source.LOKI)]
    texts += [variable.values for variable in board.variables]
    used = {name for text in texts for name in re.findall(r"\$(\w+)", text)}
    assert used - GRAFANAS_OWN == {variable.name for variable in board.variables}


def test_every_panel_says_how_to_read_it_and_asks_something() -> None:
    assert [p.title for _, p in PANELS if not p.meaning] == []
    assert [p.title for _, p in PANELS if (p.view is View.TEXT) == bool(p.queries)] == []


SOURCES = {
    source["type"]: source
    for source in yaml.safe_load(
        (FOLDER / "provisioning" / "datasources" / "tagtrail.yaml").read_text()
    )["datasources"]
}
LINE = (
    '{"message":"m","request_id":"a-b_c.d:1","trace_id":"0af7651916cd43dd8448eb211c80319c",'
    '"component":"serve"}'
)


def link(name: str) -> tuple[dict[str, str], str]:
    """A link that Grafana makes of a line, and what it finds in one."""
    (field,) = [f for f in SOURCES["loki"]["jsonData"]["derivedFields"] if f["name"] == name]
    found = re.search(field["matcherRegex"], LINE)
    assert found is not None
    return field, found[1]


def test_the_data_sources_have_the_uids_that_the_dashboards_name() -> None:
    assert SOURCES["prometheus"]["uid"] == PROMETHEUS_UID
    assert SOURCES["loki"]["uid"] == LOKI_UID


def test_a_click_on_a_line_leads_to_its_requests_trail() -> None:
    field, value = link("Request trail")
    assert value == "a-b_c.d:1"
    uid, variable = re.fullmatch(r"/d/([\w-]+)\?var-(\w+)=.*", field["url"]).groups()  # type: ignore[union-attr]
    (board,) = [board for board in BOARDS if board.uid == uid]
    assert variable in {v.name for v in board.variables}


def test_a_line_leads_to_its_trace_and_a_trace_to_its_lines() -> None:
    field, value = link("Trace")
    assert value == "0af7651916cd43dd8448eb211c80319c"
    traces = SOURCES["jaeger"]
    assert field["datasourceUid"] == traces["uid"]
    back = traces["jsonData"]["tracesToLogsV2"]
    assert back["datasourceUid"] == LOKI_UID
    assert "| trace_id=" in back["query"]
    (trace_id,) = [field for field in FIELDS if field.name == "trace_id"]
    assert trace_id.role is Role.METADATA


def test_prometheus_shows_its_alerts_with_the_alertmanager_that_has_their_silences() -> None:
    options = SOURCES["prometheus"]["jsonData"]
    assert options["manageAlerts"] is True
    assert options["alertmanagerUid"] == SOURCES["alertmanager"]["uid"]


def test_every_data_source_can_be_given_another_address() -> None:
    assert set(SOURCES) == set(PROGRAMS)
