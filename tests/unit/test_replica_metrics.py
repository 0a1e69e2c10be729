"""What a replica counts."""

from __future__ import annotations

import pytest

from observability import catalog
from observability.catalog import Metric
from observability.instrument.numbers import Buckets, Family
from serve.replica.metrics import ReplicaMetrics, Times

OWN = ("b", "b#1")


@pytest.fixture
def metrics() -> ReplicaMetrics:
    """Those of a replica."""
    return ReplicaMetrics(*OWN, lambda: (7, 1))


def values(metrics: ReplicaMetrics, metric: Metric) -> dict[tuple[str, ...], float | Buckets]:
    (found,) = [family for family in metrics.collect() if family.metric is metric]
    return dict(found.values)


def finish(metrics: ReplicaMetrics, way: str = "http", status: int = 200, **given: float) -> None:
    route = "/e" if way in ("http", "websocket") else ""
    queue_ms, processing_ms = given.get("queue_ms", 0.1), given.get("processing_ms", 1.5)
    size = int(given.get("batch_size", 1))
    metrics.finish("e", route, way, status, Times(queue_ms, processing_ms), size)


def test_a_replica_at_rest_has_its_series_at_nought(metrics: ReplicaMetrics) -> None:
    for metric in (
        *(catalog.BACKEND_REQUESTS, catalog.BACKEND_ERRORS, catalog.REPLICA_PROCESSING),
        *(catalog.REPLICA_QUEUED, catalog.LOOP_LAG),
    ):
        assert values(metrics, metric) == {OWN: 0.0}
    (queuing,) = values(metrics, catalog.QUEUING_LATENCY).values()
    (processing,) = values(metrics, catalog.PROCESSING_LATENCY).values()
    assert isinstance(queuing, Buckets)
    assert isinstance(processing, Buckets)
    assert sum(queuing.counts) == sum(processing.counts) == 0
    assert values(metrics, catalog.RECORDS_WRITTEN) == {("serve", *OWN): 7.0}
    assert values(metrics, catalog.RECORDS_DROPPED) == {("serve", *OWN): 1.0}


@pytest.mark.parametrize(
    ("status", "processed", "failed", "status_class"),
    [
        *((200, 1, 0, "2xx"), (307, 1, 0, "3xx"), (404, 1, 0, "4xx"), (101, 1, 0, "1xx")),
        *((500, 0, 1, "5xx"), (503, 0, 1, "5xx"), (499, 0, 0, "4xx")),
    ],
)
def test_a_request_is_processed_or_failed_or_its_caller_went_away(
    metrics: ReplicaMetrics, status: int, processed: int, failed: int, status_class: str
) -> None:
    finish(metrics, status=status)
    assert values(metrics, catalog.BACKEND_REQUESTS) == {OWN: processed}
    assert values(metrics, catalog.BACKEND_ERRORS) == {OWN: failed}
    assert values(metrics, catalog.ENDPOINT_REQUESTS) == {("e", *OWN, status_class, "http"): 1}


def test_http_requests_are_counted_by_route_and_all_but_shadows_by_endpoint(
    metrics: ReplicaMetrics,
) -> None:
    ways = ("http", "websocket", "call", "remote", "shadow")
    for way in ways:
        finish(metrics, way)
    assert values(metrics, catalog.HTTP_REQUESTS) == {("/e", "b#1"): 2}
    assert values(metrics, catalog.ROUTER_REQUESTS) == {("e", "b#1"): 4}
    assert values(metrics, catalog.BACKEND_REQUESTS) == {OWN: 5}
    assert values(metrics, catalog.ENDPOINT_REQUESTS) == {
        ("e", *OWN, "2xx", way): 1 for way in ways
    }


def test_an_endpoints_latency_is_wait_and_run_of_all_but_shadows(metrics: ReplicaMetrics) -> None:
    finish(metrics, queue_ms=1.5, processing_ms=2.0)
    finish(metrics, "call", status=500, queue_ms=100.0, processing_ms=1.0)
    finish(metrics, "shadow", processing_ms=9_999.0)
    ((labels, latency),) = values(metrics, catalog.ENDPOINT_LATENCY).items()
    assert isinstance(latency, Buckets)
    assert labels == ("e", *OWN)
    assert latency.cumulative()[1:3] == [("2.0", 0), ("5.0", 1)]
    assert latency.cumulative()[-1] == ("+Inf", 2)
    assert latency.sum == 104.5


def test_times_of_successes_and_failures_are_in_their_buckets(metrics: ReplicaMetrics) -> None:
    finish(metrics, queue_ms=1.0, processing_ms=3.0)
    finish(metrics, status=500, queue_ms=1.5, processing_ms=99_999.0)
    (queuing,) = values(metrics, catalog.QUEUING_LATENCY).values()
    found = values(metrics, catalog.PROCESSING_LATENCY)
    processing = found[(*OWN, "1")]
    assert isinstance(queuing, Buckets)
    assert isinstance(processing, Buckets)
    assert queuing.cumulative()[:3] == [("1.0", 1), ("2.0", 2), ("5.0", 2)]
    assert processing.cumulative()[1:3] == [("2.0", 0), ("5.0", 1)]
    assert processing.cumulative()[-2:] == [("60000.0", 1), ("+Inf", 2)]
    assert (queuing.sum, processing.sum) == (2.5, 100_002.0)


def test_processing_times_are_told_by_the_size_of_the_batch(metrics: ReplicaMetrics) -> None:
    for size in (1, 4, 4):
        finish(metrics, batch_size=size)
    found = values(metrics, catalog.PROCESSING_LATENCY)
    counts = {
        labels[2]: sum(value.counts)
        for labels, value in found.items()
        if isinstance(value, Buckets)
    }
    assert counts == {"1": 1, "4": 2}


def test_load_and_lag_are_what_they_are_when_asked(metrics: ReplicaMetrics) -> None:
    metrics.read_load = lambda: (3, 5)
    metrics.loop_lag_ms = 12.5
    assert values(metrics, catalog.REPLICA_PROCESSING) == {OWN: 3.0}
    assert values(metrics, catalog.REPLICA_QUEUED) == {OWN: 5.0}
    assert values(metrics, catalog.LOOP_LAG) == {OWN: 12.5}
    metrics.read_load = lambda: (0, 0)
    assert values(metrics, catalog.REPLICA_PROCESSING) == {OWN: 0.0}


def test_counting_goes_on_after_the_families_were_made(metrics: ReplicaMetrics) -> None:
    finish(metrics)
    first: list[Family] = metrics.collect()
    finish(metrics)
    assert values(metrics, catalog.BACKEND_REQUESTS) == {OWN: 2}
    assert [f.values for f in first if f.metric is catalog.BACKEND_REQUESTS] == [{OWN: 1}]


def test_every_family_has_a_value_for_each_of_its_tags(metrics: ReplicaMetrics) -> None:
    finish(metrics)
    for family in metrics.collect():
        assert family.metric in catalog.METRICS
        assert {len(labels) for labels in family.values} == {len(family.metric.tags)}
