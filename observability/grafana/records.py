"""What a dashboard is: plain records, and the choices that several share. Pure.

Queries of Prometheus ask for `job="ray"` or for what deploy/prometheus/rules/recording.yml works
out; queries of Loki for the labels and metadata of `observability.fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from observability import catalog
from observability.catalog import Metric

PROMETHEUS_UID = "tagtrail-prometheus"
LOKI_UID = "tagtrail-loki"


class View(str, Enum):
    """How a panel shows its data."""

    GRAPH = "graph"
    NUMBER = "number"
    LOGS = "logs"
    TEXT = "text"


class Source(str, Enum):
    """Who is asked."""

    PROMETHEUS = "prometheus"
    LOKI = "loki"


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        expr: PromQL or LogQL; `$name` stands for a variable's values.
        legend: name of each series, `{{label}}` stands for a label's value.
    """

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        meaning: how to read it.
        queries: what it asks.
        unit: Grafana's name of the unit.
        view: how it shows it.
        width: of 24 columns.
        source: whom it asks.
    """

    title: str
    meaning: str
    queries: tuple[Query, ...] = ()
    unit: str = "short"
    view: View = View.GRAPH
    width: int = 8
    source: Source = Source.PROMETHEUS


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard.

    Attributes:
        name: its name in queries.
        label: its name for people.
        values: the PromQL `label_values(...)` that lists them; "": any text.
        is_multiple: several at once, and all.
    """

    name: str
    label: str
    values: str = ""
    is_multiple: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """Panels below one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard.

    Attributes:
        name: last part of its uid, `tagtrail-<name>`, and of its file.
        title: for people.
        meaning: what it is for.
        variables: its choices.
        rows: its panels.
    """

    name: str
    title: str
    meaning: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        """Its uid in Grafana: links name it."""
        return f"tagtrail-{self.name}"


def lines(title: str, meaning: str, query: str, width: int = 24) -> Panel:
    """A panel of records, one a line.

    Args:
        title: its heading.
        meaning: as a panel's.
        query: LogQL.
        width: of 24 columns.
    """
    return Panel(title, meaning, (Query(query),), view=View.LOGS, width=width, source=Source.LOKI)


def rate(metric: Metric, selector: str = "", *, by: str = "", part: str = "") -> str:
    """How fast a counter, or a part of a histogram, grows per second, summed.

    Args:
        metric: which one.
        selector: which of its series, in the words of PromQL.
        by: the labels that are kept.
        part: `sum` or `count` of a histogram; default: its buckets.
    """
    (name,) = [s for s in metric.series if s.endswith(part)] if part else metric.series[:1]
    grown = f"rate({name}{{{_of_ray(selector)}}}[$__rate_interval])"
    return f"sum by ({by}) ({grown})" if by else f"sum({grown})"


def mean(metric: Metric, selector: str, *, by: str = "") -> str:
    """The mean of a histogram's values of late."""
    parts = (rate(metric, selector, by=by, part=part) for part in ("sum", "count"))
    return " / ".join(parts)


def quantile(share: float, metric: Metric, selector: str) -> str:
    """The value that a share of a histogram's values of late does not exceed."""
    return f"histogram_quantile({share}, {rate(metric, selector, by='le')})"


def now(metric: Metric, selector: str = "") -> str:
    """A gauge's, or a counter's, series as they are."""
    return f"{metric.series[0]}{{{_of_ray(selector)}}}"


def _of_ray(selector: str) -> str:
    return f'job="ray", {selector}' if selector else 'job="ray"'


def values_of(selector: str, label: str) -> str:
    """Grafana's query for the values that a label has."""
    return f"label_values({selector}, {label})"


ENDPOINT = Variable(
    "endpoint",
    "Endpoint",
    values_of(now(catalog.ENDPOINT_REQUESTS, 'endpoint!=""'), "endpoint"),
)
BACKEND = Variable("backend", "Backend", values_of(now(catalog.REPLICA_STATE), "backend"), False)
REPLICA = Variable(
    "replica",
    "Replica",
    values_of(now(catalog.REPLICA_STATE, 'backend="$backend"'), "replica"),
)
REQUEST_ID = Variable("request_id", "Request id")


def quantiles(level: str, what: str, selector: str, legend: str) -> tuple[Query, ...]:
    """p50, p95 and p99 as the recording rules work them out: `level:what:p50{selector}`."""
    return tuple(
        Query(f"{level}:{what}:{name}{{{selector}}}", f"{legend}{name}")
        for name in ("p50", "p95", "p99")
    )
