"""Snapshots of several processes become one text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from observability import catalog
from observability.catalog import Metric, MetricKind
from observability.instrument.exposition import Page
from observability.instrument.numbers import Family, Numbers, Snapshot


def snapshots(*families: Family) -> list[Snapshot]:
    numbers = Numbers()
    numbers.join(lambda: families)
    return numbers.snapshot()


def read(found: Sequence[Snapshot]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page(lambda: found))
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_of_two_processes_with_the_same_labels_add_up() -> None:
    ours, theirs = Family(catalog.BACKEND_QUEUED), Family(catalog.BACKEND_QUEUED)
    ours.set(("b", "e"), 3.0)
    theirs.set(("b", "e"), 4.0)

    series = read([*snapshots(ours), *snapshots(theirs)])

    assert series == {
        ("ray_serve_backend_queued_queries", (("backend", "b"), ("endpoint", "e"))): 7.0
    }


def test_a_counter_ends_in_total_and_keeps_its_labels() -> None:
    family = Family(catalog.BACKEND_REQUESTS)
    family.add(("b", "b#1"), 5)

    series = read(snapshots(family))

    key = ("ray_serve_backend_request_counter_total", (("backend", "b"), ("replica", "b#1")))
    assert series == {key: 5.0}


def test_a_histogram_has_cumulative_buckets_a_sum_and_a_count() -> None:
    family = Family(catalog.QUEUING_LATENCY)
    for value in (0.5, 1.0, 7.0, 9999.0):
        family.observe(("b", "b#1"), value)

    series = read(snapshots(family))

    name, labels = "ray_serve_backend_queuing_latency_ms", (("backend", "b"), ("replica", "b#1"))
    bounds = {
        dict(key[1])["le"]: value for key, value in series.items() if key[0] == f"{name}_bucket"
    }
    of_ray_serve = ("1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "100.0", "200.0", "500.0")
    assert set(bounds) >= {*of_ray_serve, "1000.0", "2000.0", "5000.0", "+Inf"}
    assert list(bounds)[:-1] == sorted(list(bounds)[:-1], key=float)
    assert (bounds["1.0"], bounds["5.0"], bounds["10.0"], bounds["5000.0"]) == (2, 2, 3, 3)
    assert bounds["+Inf"] == series[(f"{name}_count", labels)] == 4
    assert series[(f"{name}_sum", labels)] == 0.5 + 1.0 + 7.0 + 9999.0


def test_label_values_that_need_escaping_come_back_as_they_were() -> None:
    odd = 'a"b\\c\nd{}'
    family = Family(catalog.HTTP_REQUESTS)
    family.add((odd, ""), 1)

    ((_, labels),) = read(snapshots(family))

    assert dict(labels)["route"] == odd


def test_of_two_metrics_of_one_name_that_do_not_fit_the_first_counts() -> None:
    first = Family(Metric("mine", MetricKind.COUNTER, ("a",), "First."))
    second = Family(Metric("mine", MetricKind.GAUGE, ("a", "b"), "Second."))
    first.add(("x",), 2)
    second.set(("x", "y"), 9.0)

    series = read([*snapshots(first), *snapshots(second)])

    assert series == {("ray_mine_total", (("a", "x"),)): 2.0}
