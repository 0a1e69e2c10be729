"""A replica's figures. The request path adds to plain numbers; the families are made when asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import msgspec

from observability import catalog
from observability.catalog import Metric
from observability.fields import Component
from observability.instrument.access import CALLER_GONE
from observability.instrument.numbers import Buckets, Family, record_families

HTTP_WAYS = frozenset({"http", "websocket"})
SHADOW = "shadow"

STAGES = ("sender", "replica", "batch", "run", "send")


class Times(msgspec.Struct, frozen=True, gc=False):
    """Where a request's time went, milliseconds.

    Attributes:
        queue: all waits before the handler ran: the sum of sender, replica and batch.
        processing: the handler's.
        sender: from its sending to its arrival here.
        replica: wait here, for a place and a thread.
        batch: wait for its batch.
        send: wait for the client to take the answer.
    """

    queue: float
    processing: float
    sender: float = 0.0
    replica: float = 0.0
    batch: float = 0.0
    send: float = 0.0


class ReplicaMetrics:
    """One for each replica.

    Args:
        backend_tag: its backend.
        replica_tag: the replica.
        records: gives (records written, records dropped).
    """

    def __init__(
        self,
        backend_tag: str,
        replica_tag: str,
        records: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._backend = backend_tag
        self._replica = replica_tag
        self._records = records
        self._ended: dict[tuple[str, str, str, int], Buckets] = {}
        """Waiting and processing of all that ended, by endpoint, route, way and status."""
        self._untold: Counter[tuple[str, str, str, str, str]] = Counter()
        self._lost: Counter[str] = Counter()
        self._untold_lock = threading.Lock()
        self._queuing = Buckets(catalog.LATENCY_BUCKETS_MS)
        self._processing: dict[int, Buckets] = {1: Buckets(catalog.LATENCY_BUCKETS_MS)}
        self.read_load: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Gives (queries being processed, queries queued)."""
        self._stages = [0.0] * len(STAGES)
        self.loop_lag_ms = 0.0

    def finish(
        self,
        endpoint: str,
        route: str,
        way: str,
        status: int,
        times: Times,
        batch_size: int = 1,
    ) -> None:
        """A request ended. On the replica's loop only.

        Args:
            endpoint: the endpoint asked.
            route: its route; "" for calls.
            way: `http`, `websocket`, `call`, `remote` or `shadow`.
            status: HTTP status, or what HTTP would say.
            times: where its time went.
            batch_size: requests of the batch it was in.
        """
        key = (endpoint, route, way, status)
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = Buckets(catalog.LATENCY_BUCKETS_MS)
        ended.add(times.queue + times.processing + times.send)
        self._queuing.add(times.queue)
        stages = self._stages
        stages[0] += times.sender
        stages[1] += times.replica
        stages[2] += times.batch
        stages[3] += times.processing
        stages[4] += times.send
        buckets = self._processing.get(batch_size)
        if buckets is None:
            buckets = self._processing[batch_size] = Buckets(catalog.LATENCY_BUCKETS_MS)
        buckets.add(times.processing)

    def count_untold(
        self, endpoint: str, backend: str, way: str, status: int, *, was_sent: bool
    ) -> None:
        """A call made here ended without a replica that tells of it. From any thread.

        Args:
            endpoint: the endpoint asked.
            backend: the backend it was for; "" when none was chosen.
            way: `call`, `remote` or `shadow`.
            status: what HTTP would say.
            was_sent: a replica had it.
        """
        with self._untold_lock:
            self._untold[(endpoint, backend, "", f"{status // 100}xx", way)] += 1
            self._lost[endpoint] += was_sent and way != SHADOW

    def collect(self) -> list[Family]:
        """All families as they are now."""
        own = (self._backend, self._replica)
        requests = _family(catalog.BACKEND_REQUESTS, {own: 0.0})
        errors = _family(catalog.BACKEND_ERRORS, {own: 0.0})
        http, routed = _family(catalog.HTTP_REQUESTS), _family(catalog.ROUTER_REQUESTS)
        ended, latency = _family(catalog.ENDPOINT_REQUESTS), _family(catalog.ENDPOINT_LATENCY)
        for (endpoint, route, way, status), buckets in list(self._ended.items()):
            count = sum(buckets.counts)
            if status >= 500:
                errors.add(own, count)
            elif status != CALLER_GONE:
                requests.add(own, count)
            if way in HTTP_WAYS:
                http.add((route, self._replica), count)
            if way != SHADOW:
                routed.add((endpoint, self._replica), count)
                latency.merge((endpoint, *own), buckets)
            ended.add((endpoint, *own, f"{status // 100}xx", way), count)
        for key, count in list(self._untold.items()):
            ended.add(key, float(count))
        for endpoint, count in list(self._lost.items()):
            routed.add((endpoint, ""), float(count))
        processing = _family(catalog.PROCESSING_LATENCY)
        for size, buckets in list(self._processing.items()):
            processing.set((*own, str(size)), buckets)
        busy, queued = self.read_load()
        written, dropped = self._records()
        return [
            requests,
            errors,
            http,
            routed,
            ended,
            latency,
            _family(catalog.QUEUING_LATENCY, {own: self._queuing}),
            processing,
            _family(catalog.REPLICA_PROCESSING, {own: float(busy)}),
            _family(catalog.REPLICA_QUEUED, {own: float(queued)}),
            _family(
                catalog.STAGE_TIME,
                {(*own, name): ms for name, ms in zip(STAGES, self._stages, strict=True)},
            ),
            _family(catalog.LOOP_LAG, {own: self.loop_lag_ms}),
            *record_families(Component.SERVE, written, dropped, *own),
        ]


def _family(metric: Metric, values: dict[tuple[str, ...], float | Buckets] | None = None) -> Family:
    family = Family(metric)
    for labels, value in (values or {}).items():
        family.set(labels, value)
    return family
