"""What `tagtrail top` shows, worked out from two looks at the metrics."""

from __future__ import annotations

import pytest

from observability import catalog
from observability.catalog import Metric
from observability.instrument.numbers import Buckets, Sample, Snapshot
from observability.trail.live import Look, Row, compare, quantile


def snapshot(metric: Metric, *series: tuple[tuple[str, ...], float | Buckets]) -> Snapshot:
    samples = (
        Sample(dict(zip(metric.tags, labels, strict=True)), value) for labels, value in series
    )
    return Snapshot(metric, tuple(samples))


def ended(*series: tuple[tuple[str, str, str, str], float]) -> Snapshot:
    return snapshot(
        catalog.ENDPOINT_REQUESTS, *(((*labels, "http"), count) for labels, count in series)
    )


def busy(*replicas: tuple[str, str]) -> Snapshot:
    return snapshot(catalog.REPLICA_PROCESSING, *((replica, 1.0) for replica in replicas))


def buckets(*values: float) -> Buckets:
    made = Buckets(catalog.LATENCY_BUCKETS_MS)
    for value in values:
        made.add(value)
    return made


def row(rows: list[Row], endpoint: str, backend: str = "", replica: str = "") -> Row:
    (found,) = [
        r for r in rows if (r.endpoint, r.backend, r.replica) == (endpoint, backend, replica)
    ]
    return found


def test_rates_are_what_was_added_divided_by_the_time() -> None:
    replicas = busy(("b", "b#1"), ("b", "b#2"))
    before = Look(
        [replicas, ended((("e", "b", "b#1", "2xx"), 10.0), (("e", "b", "b#2", "5xx"), 1.0))]
    )
    after = Look(
        [replicas, ended((("e", "b", "b#1", "2xx"), 30.0), (("e", "b", "b#2", "5xx"), 5.0))]
    )

    rows = compare(before, after, seconds=2.0)

    assert [(r.endpoint, r.backend, r.replica) for r in rows] == [
        ("e", "", ""),
        ("e", "b", ""),
        ("e", "b", "b#1"),
        ("e", "b", "b#2"),
    ]
    assert row(rows, "e").per_s == 12.0
    assert row(rows, "e").errors_per_s == 2.0
    assert row(rows, "e", "b", "b#1").per_s == 10.0
    assert row(rows, "e", "b", "b#1").errors_per_s == 0.0


def test_a_replica_that_began_anew_counts_from_nothing() -> None:
    replicas = busy(("b", "b#1"))
    before = Look([replicas, ended((("e", "b", "b#1", "2xx"), 1000.0))])
    after = Look([replicas, ended((("e", "b", "b#1", "2xx"), 7.0))])

    assert row(compare(before, after, 1.0), "e").per_s == 7.0


def test_a_replica_that_is_gone_has_no_row() -> None:
    before = Look([busy(("b", "b#1")), ended((("e", "b", "b#1", "2xx"), 5.0))])
    after = Look([busy(("b", "b#2")), ended((("e", "b", "b#2", "2xx"), 1.0))])

    assert {r.replica for r in compare(before, after, 1.0)} == {"", "b#2"}


def test_an_endpoint_at_rest_has_its_rows() -> None:
    queues = snapshot(catalog.BACKEND_QUEUED, (("b", "e"), 3.0))
    look = Look([busy(("b", "b#1")), queues])

    rows = compare(look, look, 1.0)

    assert row(rows, "e", "b", "b#1").in_progress == 1
    assert row(rows, "e", "b", "b#1").queued == 0
    assert row(rows, "e", "b").queued == 3
    assert row(rows, "e").queued == 3
    assert row(rows, "e").p50_ms is None


def test_requests_that_no_endpoint_took_have_a_row_without_backends() -> None:
    before, after = Look([]), Look([ended((("", "", "", "4xx"), 4.0))])

    rows = compare(before, after, 2.0)

    assert [(r.endpoint, r.backend, r.replica, r.per_s) for r in rows] == [("", "", "", 2.0)]


def test_times_are_those_of_the_interval_over_all_batch_sizes() -> None:
    def look(single: Buckets, batch: Buckets) -> Look:
        times = snapshot(
            catalog.PROCESSING_LATENCY, (("b", "b#1", "1"), single), (("b", "b#1", "4"), batch)
        )
        return Look([busy(("b", "b#1")), times, ended((("e", "b", "b#1", "2xx"), 1.0))])

    old = [3000.0] * 50
    rows = compare(
        look(buckets(*old), buckets()), look(buckets(*old, 1.5), buckets(*[1.5] * 9)), 1.0
    )

    assert 1.0 < (row(rows, "e").p50_ms or 0) <= 2.0
    assert 1.0 < (row(rows, "e", "b", "b#1").p99_ms or 0) <= 2.0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([0.5, 0.5], 0.5, 0.5),
        ([15.0] * 10, 0.99, 15.0),  # of one bucket the mean is known
        ([1003.0] * 3, 0.99, 1003.0),
        ([1e9], 0.5, 1e9),
        ([15.0] * 5 + [1.0] * 5, 1.0, 20.0),
        ([15.0] * 5 + [1.0] * 5, 0.75, 15.0),
        ([1.0, 1e9], 1.0, 60_000.0),
    ],
)
def test_a_quantile_is_interpolated_within_its_bucket(
    values: list[float], share: float, expected: float | None
) -> None:
    assert quantile(buckets(*values), share) == expected
