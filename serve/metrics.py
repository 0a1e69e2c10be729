"""Metrics of one's own: as Ray's, and they tell the backend and the replica by themselves.

    from serve import metrics

    class Model:
        def __init__(self):
            self.excellent = metrics.Counter("excellent", "Excellent queries.", tag_keys=("kind",))

        def __call__(self, request):
            self.excellent.inc(tags={"kind": "a"})

A thread of the replica exports them, as `ray_excellent_total{backend=..., replica=..., kind=...}`.
Outside a backend, both tags are empty. A process keeps one metric of each name: one that is made
again, in each request perhaps, goes on where that one is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import ray

from observability.catalog import Metric, MetricKind
from observability.instrument.export import start_export
from observability.instrument.numbers import Family, process_numbers
from serve.context import current_tags

OWN_TAGS = ("backend", "replica")


@dataclass(frozen=True, slots=True)
class _Kept:
    """The numbers of one name. A handler may run in several threads."""

    family: Family
    lock: threading.Lock = field(default_factory=threading.Lock)


_kept: dict[str, _Kept] = {}
_lock = threading.Lock()


def _keep(metric: Metric) -> _Kept:
    """What is kept under a metric's name. ValueError: it is of another kind."""
    with _lock:
        kept = _kept.get(metric.name)
        if kept is None:
            if not _kept:
                process_numbers.join(_collect)
            kept = _kept[metric.name] = _Kept(Family(metric))
    _check_same(metric, kept.family.metric)
    return kept


def _check_same(metric: Metric, known: Metric) -> None:
    if (metric.kind, set(metric.tags), metric.buckets) != (
        known.kind,
        set(known.tags),
        known.buckets,
    ):
        raise ValueError(
            f"Metric '{metric.name}' was made in this process before, as {_describe(known)}, and "
            f"now as {_describe(metric)}. Make it alike, or give it another name."
        )


def _describe(metric: Metric) -> str:
    keys = tuple(tag for tag in metric.tags if tag not in OWN_TAGS)
    bounds = f" and boundaries {list(metric.buckets)}" if metric.buckets else ""
    return f"a {metric.kind.value} with tag_keys {keys!r}{bounds}"


def _collect() -> list[Family]:
    return [kept.family for kept in list(_kept.values())]


class _Metric:
    """What the three do alike."""

    kind: MetricKind

    def __init__(
        self,
        name: str,
        description: str = "",
        tag_keys: tuple[str, ...] | None = None,
        *,
        buckets: tuple[float, ...] = (),
    ) -> None:
        _check_tag_keys(tag_keys)
        self._keys = tuple(key for key in tag_keys or () if key not in OWN_TAGS)
        self._defaults: dict[str, str] = {}
        kept = _keep(Metric(name, self.kind, (*OWN_TAGS, *self._keys), description, buckets))
        self._family, self._lock = kept.family, kept.lock
        self._keys = self._family.metric.tags[len(OWN_TAGS) :]  # in the order they have there
        if ray.is_initialized():
            start_export()

    def set_default_tags(self, default_tags: dict[str, str]) -> Any:
        """Tags that need not be given each time. Returns the metric itself.

        Args:
            default_tags: tag to value; `backend` and `replica` are known already and stay.

        Raises:
            ValueError: a tag that is not in tag_keys.
            TypeError: a value that is no str.
        """
        self._check(default_tags)
        self._defaults = dict(default_tags)
        return self

    def _labels(self, tags: dict[str, str] | None) -> tuple[str, ...]:
        given = self._defaults
        if tags:
            self._check(tags)
            given = {**given, **tags}
        missing = [key for key in self._keys if key not in given]
        if missing:
            raise ValueError(
                f"Missing value for tag key(s) {','.join(missing)} of metric "
                f"'{self._family.metric.name}'. Give tags={{...}}, or set_default_tags({{...}})."
            )
        return (*current_tags(), *(given[key] for key in self._keys))

    def _check(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._keys and key not in OWN_TAGS:
                raise ValueError(
                    f"Unrecognized tag key {key} of metric '{self._family.metric.name}'. "
                    f"tag_keys are {self._keys!r}."
                )
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)} for '{key}'.")

    def __reduce__(self) -> Any:
        metric = self._family.metric
        return _rebuild, (
            type(self),
            metric.name,
            metric.description,
            metric.buckets,
            self._keys,
            self._defaults,
        )


class Counter(_Metric):
    """A number that only grows. Arguments as `ray.util.metrics.Counter`."""

    kind = MetricKind.COUNTER

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(name, description, tag_keys)

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add. ValueError for 0 and less, and for tags that are missing or unknown."""
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        labels = self._labels(tags)
        with self._lock:
            self._family.add(labels, value)


class Gauge(_Metric):
    """A number that is now. Arguments as `ray.util.metrics.Gauge`."""

    kind = MetricKind.GAUGE

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(name, description, tag_keys)

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Have this value. ValueError for tags that are missing or unknown."""
        labels = self._labels(tags)
        with self._lock:
            self._family.set(labels, float(value))


class Histogram(_Metric):
    """Numbers by size. Arguments as `ray.util.metrics.Histogram`."""

    kind = MetricKind.HISTOGRAM

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        if not boundaries:
            raise ValueError(
                f"Histogram '{name}' needs boundaries, such as boundaries=[1, 10, 100]."
            )
        super().__init__(name, description, tag_keys, buckets=tuple(sorted(map(float, boundaries))))

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count a value. ValueError for tags that are missing or unknown."""
        labels = self._labels(tags)
        with self._lock:
            self._family.observe(labels, float(value))


def _check_tag_keys(tag_keys: object) -> None:
    if tag_keys is not None and not (
        isinstance(tag_keys, tuple) and all(isinstance(key, str) for key in tag_keys)
    ):
        raise TypeError(f"tag_keys must be a tuple of str, got {tag_keys!r}. Example: ('model',).")


def _rebuild(
    cls: Any,
    name: str,
    description: str,
    buckets: tuple[float, ...],
    keys: tuple[str, ...],
    defaults: dict[str, str],
) -> Any:
    if cls is Histogram:
        metric: Any = Histogram(name, description, list(buckets), keys)
    else:
        metric = cls(name, description, keys)
    return metric.set_default_tags(defaults)
