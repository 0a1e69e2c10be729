"""Grafana's JSON of the dashboards, made with Grafana's own SDK. Needs `grafana-foundation-sdk`."""

from __future__ import annotations

import itertools
import json
from typing import Any

from grafana_foundation_sdk.builders import (
    dashboard,
    logs,
    loki,
    prometheus,
    stat,
    text,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LogsSortOrder, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
)

from observability.grafana.records import (
    LOKI_UID,
    PROMETHEUS_UID,
    Board,
    Panel,
    Query,
    Source,
    Variable,
    View,
)

TAG = "tagtrail"
HEIGHTS = {View.NUMBER: 4, View.LOGS: 12, View.TEXT: 4}
GRAPH_HEIGHT = 8

DATA_SOURCES = {
    Source.PROMETHEUS: DataSourceRef("prometheus", PROMETHEUS_UID),
    Source.LOKI: DataSourceRef("loki", LOKI_UID),
}


def build_dashboard(board: Board) -> str:
    """A dashboard as the text of its file: the same for the same board."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.meaning)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Tagtrail")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in board.variables:
        builder.with_variable(_variable(variable))
    ids = itertools.count(1)
    for row in board.rows:
        builder.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            builder.with_panel(_panel(panel).id(next(ids)))
    return json.dumps(_plain(builder.build()), indent=2, sort_keys=True) + "\n"


def _plain(built: object) -> Any:
    return json.loads(json.dumps(built, cls=JSONEncoder))


def _variable(variable: Variable) -> Any:
    if not variable.values:
        return dashboard.TextBoxVariable(variable.name).label(variable.label).default_value("")
    builder = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(DATA_SOURCES[Source.PROMETHEUS])
        .query(variable.values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(variable.is_multiple)
        .include_all(variable.is_multiple)
    )
    if variable.is_multiple:
        builder.all_value(".*").current(VariableOption(True, "All", "$__all"))
    return builder


def _panel(panel: Panel) -> Any:
    builder = _view(panel)
    builder.title(panel.title).description(panel.meaning)
    builder.span(panel.width).height(HEIGHTS.get(panel.view, GRAPH_HEIGHT))
    if panel.queries:
        builder.datasource(DATA_SOURCES[panel.source])
    for number, query in enumerate(panel.queries):
        builder.with_target(_target(panel, query).ref_id(chr(ord("A") + number)))
    return builder


def _view(panel: Panel) -> Any:
    if panel.view is View.TEXT:
        return text.Panel().content(panel.meaning)
    if panel.view is View.LOGS:
        oldest_first = logs.Panel().sort_order(LogsSortOrder.ASCENDING)
        return oldest_first.show_time(True).enable_log_details(True).wrap_log_message(True)
    if panel.view is View.NUMBER:
        return stat.Panel().unit(panel.unit)
    return (
        timeseries.Panel().unit(panel.unit).min(0).fill_opacity(8).show_points(VisibilityMode.NEVER)
    )


def _target(panel: Panel, query: Query) -> Any:
    if panel.source is Source.LOKI:
        target: Any = loki.Dataquery().expr(query.expr)
    else:
        target = prometheus.Dataquery().expr(query.expr).range()
    return target.legend_format(query.legend) if query.legend else target
