"""Plain numbers that code adds to, and snapshots of them. Pure: who exports them is elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from observability.catalog import RECORDS_DROPPED, RECORDS_WRITTEN, Metric, MetricKind
from observability.fields import Component

MAX_SERIES = 1000
"""Most label sets of one metric in a process; the ones after that are counted together."""

OTHER = "other"
"""The value of every label of what is counted together."""


class Buckets:
    """A histogram's numbers.

    Args:
        bounds: upper bounds, rising; a value equal to a bound is within it.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def __add__(self, other: Buckets) -> Buckets:
        total = Buckets(self.bounds)
        total.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        total.sum = self.sum + other.sum
        return total

    def __sub__(self, earlier: Buckets) -> Buckets:
        grown = Buckets(self.bounds)
        grown.counts = [a - b for a, b in zip(self.counts, earlier.counts, strict=True)]
        grown.sum = self.sum - earlier.sum
        return grown

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound as Prometheus writes it, values up to it), the last one `+Inf`."""
        total, found = 0, []
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        for name, count in zip(names, self.counts, strict=True):
            total += count
            found.append((name, total))
        return found


Labels = tuple[str, ...]


@dataclass(slots=True)
class Family:
    """One metric's numbers, by the values of its tags.

    Attributes:
        metric: what it is.
        values: of each label set, in the order of the metric's tags.
    """

    metric: Metric
    values: dict[Labels, float | Buckets] = field(default_factory=dict)
    is_full: bool = False

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Count up."""
        key = self._key(labels)
        before = self.values.get(key, 0.0)
        assert not isinstance(before, Buckets)
        self.values[key] = before + amount

    def set(self, labels: Labels, value: float | Buckets) -> None:
        """Have this value."""
        self.values[self._key(labels)] = value

    def observe(self, labels: Labels, value: float) -> None:
        """Count a value into its bucket."""
        key = self._key(labels)
        buckets = self.values.get(key)
        if not isinstance(buckets, Buckets):
            buckets = self.values[key] = Buckets(self.metric.buckets)
        buckets.add(value)

    def merge(self, labels: Labels, more: Buckets) -> None:
        """Add a histogram's numbers, which go on counting by themselves."""
        key = self._key(labels)
        buckets = self.values.get(key)
        start = buckets if isinstance(buckets, Buckets) else Buckets(more.bounds)
        self.values[key] = start + more

    def _key(self, labels: Labels) -> Labels:
        if labels in self.values or len(self.values) < MAX_SERIES:
            return labels
        self.is_full = True
        return (OTHER,) * len(labels)


@dataclass(frozen=True, slots=True)
class Sample:
    """One series as it is now. `value`: a number, or a copy of a histogram's buckets."""

    labels: Mapping[str, str]
    value: float | Buckets


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One metric as it is now."""

    metric: Metric
    samples: tuple[Sample, ...]


def record_families(
    component: Component, written: int, dropped: int, backend: str = "", replica: str = ""
) -> list[Family]:
    """What a process's segment writer counts, as families.

    Args:
        component: of the process.
        written: records in its segments.
        dropped: records that could not be written.
        backend: its backend tag, if it is a replica.
        replica: its replica tag.
    """
    families = []
    for metric, count in ((RECORDS_WRITTEN, written), (RECORDS_DROPPED, dropped)):
        family = Family(metric)
        family.set((component.value, backend, replica), float(count))
        families.append(family)
    return families


Collect = Callable[[], Iterable[Family]]
"""Gives the families of some part of the process as they are now."""


class Numbers:
    """All numbers of a process. Parts join with a function that gives their families."""

    def __init__(self) -> None:
        self._collects: list[Collect] = []

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self._collects)

    def join(self, collect: Collect) -> None:
        """Have a part's families in each snapshot."""
        self._collects.append(collect)

    def leave(self, collect: Collect) -> None:
        """Have them no more."""
        if collect in self._collects:
            self._collects.remove(collect)

    def snapshot(self) -> list[Snapshot]:
        """Everything as it is now. Families of one name are put together."""
        merged: dict[str, Family] = {}
        for collect in list(self._collects):
            for family in collect():
                known = merged.setdefault(family.metric.name, Family(family.metric))
                for labels, value in list(family.values.items()):
                    _merge(known, labels, value)
        return [_freeze(family) for family in merged.values()]


def _merge(known: Family, labels: Labels, value: float | Buckets) -> None:
    before = known.values.get(labels)
    if isinstance(value, Buckets):
        start = before if isinstance(before, Buckets) else Buckets(value.bounds)
        known.values[labels] = start + value  # a copy: the original goes on counting
    elif known.metric.kind is MetricKind.COUNTER and isinstance(before, (int, float)):
        known.values[labels] = before + value
    else:
        known.values[labels] = value


def _freeze(family: Family) -> Snapshot:
    tags = family.metric.tags
    return Snapshot(
        family.metric,
        tuple(
            Sample(dict(zip(tags, labels, strict=True)), value)
            for labels, value in family.values.items()
        ),
    )


process_numbers = Numbers()
"""Those of this process."""
