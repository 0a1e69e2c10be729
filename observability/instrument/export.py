"""Hands a process's numbers to Ray, which exports them on the node's metrics port.

Once a second and at the end, in a thread: the request path adds to plain numbers only.

Histograms go as what they are made of: gauges `<name>_bucket` with the label `le`, `<name>_sum`
and `<name>_count`. Queries are the same, and the numbers are exact. As a histogram of Ray's, each
observation would cost 2.3 us here and 13 us in the node's agent, which plays every one anew: at
10,000 requests/s with two histograms, more than a quarter of a core, and the sums would be guesses
(`reporter_agent.py`, Ray 2.60; measured, docs/decisions.md).
"""

from __future__ import annotations

import threading
from typing import Any

from ray.util.metrics import Counter, Gauge

from observability.catalog import Metric, MetricKind
from observability.instrument.numbers import (
    Buckets,
    Labels,
    Numbers,
    Sample,
    Snapshot,
    process_numbers,
)
from observability.instrument.ray_internals import record_metric
from observability.instrument.supervision import keep_thread_running, process_troubles

PERIOD_S = 1.0
EXPORT = "export of metrics through Ray"


class RayExport:
    """Exports numbers through Ray.

    Args:
        numbers: what to export.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._exported: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self._gauges: dict[str, dict[Labels, dict[str, str]]] = {}
        self._instruments: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(
            target=keep_thread_running,
            args=(EXPORT, self._run, self._is_over.wait),
            name="tagtrail-metrics",
            daemon=True,
        )

    def start(self) -> None:
        """Export once a second from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Export once more, and no more after that."""
        self._is_over.set()
        self.export()

    def export(self) -> None:
        """Hand over what has changed. Never raises: serving does not depend on it."""
        try:
            with self._lock:
                for snapshot in self._numbers.snapshot():
                    for sample in snapshot.samples:
                        self._export_sample(snapshot.metric, sample)
                    if snapshot.metric.kind is MetricKind.GAUGE:
                        self._clear_gone(snapshot)
            process_troubles.clear(EXPORT)
        except Exception as error:  # noqa: BLE001 - Ray's metrics may be off or ending
            process_troubles.tell(EXPORT, error, "It is tried again, and requests are served.")

    def _run(self) -> None:
        while not self._is_over.wait(PERIOD_S):
            self.export()

    def _export_sample(self, metric: Metric, sample: Sample) -> None:
        labels = dict(sample.labels)
        if isinstance(sample.value, Buckets):
            for bound, count in sample.value.cumulative():
                self._gauge(f"{metric.name}_bucket", metric, ("le",), labels | {"le": bound}, count)
            self._gauge(f"{metric.name}_sum", metric, (), labels, sample.value.sum)
            self._gauge(f"{metric.name}_count", metric, (), labels, sum(sample.value.counts))
        elif metric.kind is MetricKind.COUNTER:
            key = (metric.name, frozenset(labels.items()))
            more = sample.value - self._exported.get(key, 0.0)
            # A counter of 0 is told once, so that its series is there before anything happens.
            if more > 0 or key not in self._exported:
                record_metric(self._instrument(Counter, metric.name, metric, ()), more, labels)
                self._exported[key] = sample.value
        else:
            self._gauge(metric.name, metric, (), labels, sample.value)

    def _clear_gone(self, snapshot: Snapshot) -> None:
        """What is gone is told once more, as 0: Ray's next report has the last value of each gauge.

        A gauge that is not told between two reports is in none after that (seen in Ray 2.60), so
        all that is there is told each second.
        """
        before = self._gauges.get(snapshot.metric.name, {})
        now = {tuple(s.labels.values()): dict(s.labels) for s in snapshot.samples}
        for values, labels in before.items():
            if values not in now:
                self._gauge(snapshot.metric.name, snapshot.metric, (), labels, 0.0)
        self._gauges[snapshot.metric.name] = now

    def _gauge(
        self,
        name: str,
        metric: Metric,
        more_tags: tuple[str, ...],
        labels: dict[str, str],
        value: float,
    ) -> None:
        record_metric(self._instrument(Gauge, name, metric, more_tags), float(value), labels)

    def _instrument(self, kind: Any, name: str, metric: Metric, more_tags: tuple[str, ...]) -> Any:
        found = self._instruments.get(name)
        if found is None:
            tags = (*metric.tags, *more_tags)
            found = self._instruments[name] = kind(name, metric.description, tag_keys=tags)
        return found


_export: RayExport | None = None
_lock = threading.Lock()


def start_export() -> None:
    """Export this process's numbers from now on. Called again: nothing."""
    global _export
    with _lock:
        if _export is None:
            process_numbers.join(process_troubles.collect)
            _export = RayExport(process_numbers)
            _export.start()


def stop_export() -> None:
    """Export this process's numbers for the last time."""
    global _export
    with _lock:
        export, _export = _export, None
    if export is not None:
        export.stop()
        process_numbers.leave(process_troubles.collect)
