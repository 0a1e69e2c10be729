"""What happens right now, from two looks at the metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from observability import catalog
from observability.catalog import Metric
from observability.instrument.numbers import Buckets, Snapshot

Values = dict[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint, one of its backends, or one replica of that.

    Attributes:
        endpoint: its name; "" for requests that matched none.
        backend: its tag; "" for all of the endpoint.
        replica: its tag; "" for all of the backend, the ingress's own answers included.
        per_s: requests that ended, per second.
        errors_per_s: those among them with status 500 and more.
        p50_ms: half of the requests were processed within this, milliseconds; None without any.
        p99_ms: 99 of 100.
        in_progress: being processed.
        queued: waiting, in replicas, handles and ingresses.
    """

    endpoint: str
    backend: str
    replica: str
    per_s: float
    errors_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    in_progress: int
    queued: int

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


class Look:
    """All series of one moment, by metric and the values of its tags.

    Args:
        snapshots: of all processes.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._values: dict[str, Values] = {}
        for snapshot in snapshots:
            known = self._values.setdefault(snapshot.metric.name, {})
            for sample in snapshot.samples:
                labels = tuple(sample.labels.values())
                known[labels] = known[labels] + sample.value if labels in known else sample.value

    def of(self, metric: Metric) -> Values:
        """A metric's series."""
        return self._values.get(metric.name, {})


def compare(before: Look, after: Look, seconds: float) -> list[Row]:
    """What happened in between, a row for each endpoint, then for its backends, their replicas.

    A replica's times are not known by endpoint: if several endpoints share it, each shows all of
    them.

    Args:
        before: the earlier look.
        after: the later one.
        seconds: between them.
    """
    ended = _grown(before, after, catalog.ENDPOINT_REQUESTS)
    processing = _by_replica(_grown(before, after, catalog.PROCESSING_LATENCY))
    places = _places(after)
    rows = []
    for endpoint in sorted({place[0] for place in places}):
        of_endpoint = [place for place in places if place[0] == endpoint]
        backends = sorted({place[1] for place in of_endpoint if place[1]})
        wholes = [(endpoint, "", ""), *((endpoint, tag, "") for tag in backends)]
        singles = sorted(place for place in of_endpoint if place[2])
        for whole in sorted([*wholes, *singles]):
            within = [place for place in of_endpoint if _is_within(place, whole)]
            rows.append(_row(whole, within, ended, processing, after, seconds))
    return rows


def quantile(buckets: Buckets, share: float) -> float | None:
    """The value that a share of the values does not exceed.

    Estimated as Prometheus does, but where all values are in one bucket: then it is their mean.

    Args:
        buckets: the values.
        share: 0 to 1.

    Returns:
        In the values' unit; None without any; the highest bound when it is beyond that.
    """
    total = sum(buckets.counts)
    if total == 0:
        return None
    if max(buckets.counts) == total:  # all alike: their mean says more than the bucket's bounds
        return buckets.sum / total
    wanted, seen, low = share * total, 0, 0.0
    for bound, count in zip(buckets.bounds, buckets.counts, strict=False):
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen, low = seen + count, bound
    return low


Place = tuple[str, str, str]


def _places(look: Look) -> set[Place]:
    """Every (endpoint, backend, replica) that took requests or is asked for, also at rest."""
    live = {(tag, replica) for tag, replica in look.of(catalog.REPLICA_PROCESSING)}
    places: set[Place] = set()
    for endpoint, backend, replica, _, _ in look.of(catalog.ENDPOINT_REQUESTS):
        if not replica or (backend, replica) in live:
            places.add((endpoint, backend, replica))
    for backend, endpoints in look.of(catalog.BACKEND_QUEUED):
        for endpoint in endpoints.split(","):
            places |= {(endpoint, backend, replica) for tag, replica in live if tag == backend}
    return places


def _is_within(place: Place, whole: Place) -> bool:
    return all(not wanted or wanted == have for wanted, have in zip(whole, place, strict=True))


def _row(
    whole: Place,
    within: list[Place],
    ended: Values,
    processing: dict[str, Buckets],
    after: Look,
    seconds: float,
) -> Row:
    endpoint, backend, replica = whole
    counts = {key: n for key, n in ended.items() if key[:3] in within}
    errors = sum(n for key, n in counts.items() if key[3] == "5xx")
    replicas = {(place[1], place[2]) for place in within if place[2]}
    times = Buckets(catalog.LATENCY_BUCKETS_MS)
    for _, tag in replicas:
        times = times + processing.get(tag, Buckets(catalog.LATENCY_BUCKETS_MS))
    queued = _sum_of(after.of(catalog.REPLICA_QUEUED), replicas)
    if not replica:
        queued += sum(
            n
            for (tag, endpoints), n in after.of(catalog.BACKEND_QUEUED).items()
            if endpoint in endpoints.split(",") and backend in ("", tag)
        )
    return Row(
        endpoint,
        backend,
        replica,
        sum(counts.values()) / seconds,
        errors / seconds,
        quantile(times, 0.5),
        quantile(times, 0.99),
        int(_sum_of(after.of(catalog.REPLICA_PROCESSING), replicas)),
        int(queued),
    )


def _sum_of(values: Values, keys: set[tuple[str, str]]) -> float:
    return float(sum(value for key, value in values.items() if key in keys))


def _grown(before: Look, after: Look, metric: Metric) -> Values:
    """By how much each series has grown; one that began anew has grown from nothing."""
    earlier = before.of(metric)
    grown: Values = {}
    for key, value in after.of(metric).items():
        known = earlier.get(key)
        grown[key] = value if known is None or _is_less(value, known) else value - known
    return grown


def _is_less(value: float | Buckets, known: float | Buckets) -> bool:
    return _size(value) < _size(known)


def _size(value: float | Buckets) -> float:
    return sum(value.counts) if isinstance(value, Buckets) else value


def _by_replica(values: Values) -> dict[str, Buckets]:
    """Of all batch sizes together."""
    found: dict[str, Buckets] = {}
    for (_, replica, _), buckets in values.items():
        found[replica] = found[replica] + buckets if replica in found else buckets
    return found
