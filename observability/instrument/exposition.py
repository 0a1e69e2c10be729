"""Snapshots of several processes as the text that Prometheus reads. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as PrometheusFamily
from prometheus_client.registry import Collector

from observability.catalog import Metric, MetricKind
from observability.instrument.numbers import Buckets, Snapshot

PREFIX = "ray_"
"""What Ray puts before the name of each metric."""


def to_families(snapshots: Iterable[Snapshot]) -> list[PrometheusFamily]:
    """prometheus-client's families, one a metric; series with the same labels are summed.

    Args:
        snapshots: of all processes.
    """
    series: dict[str, dict[tuple[str, ...], float | Buckets]] = {}
    metrics: dict[str, Metric] = {}
    for snapshot in snapshots:
        metric = metrics.setdefault(snapshot.metric.name, snapshot.metric)
        if (snapshot.metric.kind, snapshot.metric.tags) != (metric.kind, metric.tags):
            continue  # a user's metrics of one name that do not fit together: the first counts
        known = series.setdefault(metric.name, {})
        for sample in snapshot.samples:
            labels = tuple(sample.labels.values())
            known[labels] = _sum(known.get(labels), sample.value)
    return [_family(metric, series[name]) for name, metric in metrics.items()]


class Page(Collector):
    """What a prometheus-client registry collects from.

    Args:
        snapshots: gives those of now.
    """

    def __init__(self, snapshots: Callable[[], Iterable[Snapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[PrometheusFamily]:
        """The families of now."""
        return to_families(self._snapshots())

    def describe(self) -> Iterable[PrometheusFamily]:
        """Nothing: what there is is known when it is asked for."""
        return ()


def _sum(before: float | Buckets | None, value: float | Buckets) -> float | Buckets:
    if before is None:
        return value
    if isinstance(before, Buckets) and isinstance(value, Buckets):
        return before + value
    assert not isinstance(before, Buckets) and not isinstance(value, Buckets)
    return before + value


def _family(metric: Metric, series: dict[tuple[str, ...], float | Buckets]) -> PrometheusFamily:
    name, about, tags = PREFIX + metric.name, metric.description, metric.tags
    if metric.kind is MetricKind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, about, labels=tags)
        for labels, value in series.items():
            assert isinstance(value, Buckets)
            histogram.add_metric(labels, value.cumulative(), value.sum)
        return histogram
    is_counter = metric.kind is MetricKind.COUNTER
    family = (CounterMetricFamily if is_counter else GaugeMetricFamily)(name, about, labels=tags)
    for labels, value in series.items():
        assert not isinstance(value, Buckets)
        family.add_metric(labels, value)
    return family
