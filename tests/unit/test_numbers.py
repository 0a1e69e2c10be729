"""Plain numbers and their snapshots."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.catalog import Metric, MetricKind
from observability.fields import Component
from observability.instrument.numbers import (
    MAX_SERIES,
    OTHER,
    Buckets,
    Family,
    Numbers,
    Sample,
    record_families,
)

COUNTER = Metric("count", MetricKind.COUNTER, ("backend", "replica"), "Things.")
GAUGE = Metric("level", MetricKind.GAUGE, ("backend",), "A level.")
HISTOGRAM = Metric("time_ms", MetricKind.HISTOGRAM, ("backend",), "A time.", (1.0, 2.0, 5.0))

BOUNDS = (1.0, 2.0, 5.0)
numbers = st.floats(0, 100) | st.sampled_from(BOUNDS)


def samples(*families: Family) -> dict[str, dict[tuple[str, ...], float | Buckets]]:
    """A snapshot of families, by metric and by the values of its tags."""
    made = Numbers()
    for family in families:
        made.join(lambda family=family: [family])  # type: ignore[misc]
    return {
        snapshot.metric.name: {tuple(s.labels.values()): s.value for s in snapshot.samples}
        for snapshot in made.snapshot()
    }


def filled(*values: float) -> Buckets:
    buckets = Buckets(BOUNDS)
    for value in values:
        buckets.add(value)
    return buckets


@given(st.lists(numbers))
def test_a_bucket_counts_the_values_up_to_its_bound(values: list[float]) -> None:
    counted = filled(*values)
    expected = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert counted.cumulative() == [
        *zip(("1.0", "2.0", "5.0"), expected, strict=True),
        ("+Inf", len(values)),
    ]
    assert math.isclose(counted.sum, math.fsum(values))


@given(st.lists(numbers), st.lists(numbers))
def test_buckets_add_up_and_what_was_added_can_be_taken_off(
    first: list[float], second: list[float]
) -> None:
    total = filled(*first) + filled(*second)
    assert total.counts == filled(*first, *second).counts
    grown = total - filled(*first)
    assert grown.counts == filled(*second).counts
    assert math.isclose(grown.sum, math.fsum(second), abs_tol=1e-6)


def test_buckets_of_other_bounds_are_never_added_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        filled(1.0) + Buckets((1.0,))


def test_a_snapshot_does_not_change_when_counting_goes_on() -> None:
    counter, histogram = Family(COUNTER), Family(HISTOGRAM)
    counter.add(("b", "b#1"))
    histogram.observe(("b",), 1.0)
    found = samples(counter, histogram)
    counter.add(("b", "b#1"), 5)
    histogram.observe(("b",), 1.0)
    assert found["count"] == {("b", "b#1"): 1.0}
    copied = found["time_ms"][("b",)]
    assert isinstance(copied, Buckets)
    assert (copied.counts, copied.sum) == ([1, 0, 0, 0], 1.0)


def test_what_several_parts_count_under_one_name_adds_up_and_a_gauge_is_the_last_ones() -> None:
    families = []
    for number in (1, 2):
        counter, gauge, histogram = Family(COUNTER), Family(GAUGE), Family(HISTOGRAM)
        counter.add(("b", "b#1"), number)
        counter.add(("b", f"b#own{number}"), 1)
        gauge.set(("b",), float(number))
        histogram.observe(("b",), number)
        families += [counter, gauge, histogram]
    found = samples(*families)
    assert found["count"] == {("b", "b#1"): 3.0, ("b", "b#own1"): 1.0, ("b", "b#own2"): 1.0}
    assert found["level"] == {("b",): 2.0}
    together = found["time_ms"][("b",)]
    assert isinstance(together, Buckets)
    assert (together.counts, together.sum) == ([1, 1, 0, 0], 3.0)


def test_a_sample_names_its_labels_in_the_metrics_order() -> None:
    family = Family(COUNTER)
    family.add(("b", "b#1"))
    made = Numbers()
    made.join(lambda: [family])
    (snapshot,) = made.snapshot()
    assert snapshot.metric is COUNTER
    assert snapshot.samples == (Sample({"backend": "b", "replica": "b#1"}, 1.0),)


def test_a_part_that_left_is_in_no_snapshot() -> None:
    family, made = Family(COUNTER), Numbers()

    def collect() -> list[Family]:
        return [family]

    made.join(collect)
    assert len(made.snapshot()) == 1
    made.leave(collect)
    made.leave(collect)
    assert made.snapshot() == []


def test_a_part_may_join_while_a_snapshot_is_made() -> None:
    made = Numbers()

    def collect() -> list[Family]:
        made.join(lambda: [Family(GAUGE)])
        return [Family(COUNTER)]

    made.join(collect)
    assert [snapshot.metric for snapshot in made.snapshot()] == [COUNTER]
    assert [snapshot.metric for snapshot in made.snapshot()] == [COUNTER, GAUGE]


def test_too_many_series_are_counted_together_and_none_is_lost() -> None:
    family = Family(COUNTER)
    for number in range(MAX_SERIES + 7):
        family.add(("b", str(number)))
        family.add(("b", "0"))
    assert len(family.values) == MAX_SERIES + 1
    assert family.values[(OTHER, OTHER)] == 7.0
    assert family.values[("b", "0")] == MAX_SERIES + 8
    assert family.is_full


def test_a_histogram_of_too_many_series_counts_on_together() -> None:
    family = Family(HISTOGRAM)
    for number in range(MAX_SERIES + 3):
        family.observe((str(number),), 1.5)
    rest = family.values[(OTHER,)]
    assert isinstance(rest, Buckets)
    assert rest.counts == [0, 3, 0, 0]


def test_a_family_at_its_limit_is_not_full_before_one_more_comes() -> None:
    family = Family(GAUGE)
    for number in range(MAX_SERIES):
        family.set((str(number),), 1.0)
    family.set(("5",), 2.0)
    assert not family.is_full
    assert family.values[("5",)] == 2.0


def test_records_written_and_dropped_are_counters_of_their_component() -> None:
    found = samples(*record_families(Component.SERVE, 5, 2, "b", "b#1"))
    assert found == {
        "serve_records_written": {("serve", "b", "b#1"): 5.0},
        "serve_records_dropped": {("serve", "b", "b#1"): 2.0},
    }
