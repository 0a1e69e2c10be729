"""An ingress's metrics: what it answered without a replica, and what waits in HAProxy. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from observability import catalog
from observability.fields import Component
from observability.instrument.access import AccessRecord
from observability.instrument.numbers import Family, record_families
from serve.ingress.names import section_name
from serve.records import IngressTable

UNMATCHED = "unmatched"
"""Route of requests that match none: their paths are the clients' and without number."""

_REACHED_A_REPLICA = frozenset({"replica_died", "replica_timeout", "bad_answer"})


class IngressFigures:
    """Counts the requests of which no replica tells; the replicas count all others."""

    def __init__(self) -> None:
        self._http = Family(catalog.HTTP_REQUESTS)
        self._routed = Family(catalog.ROUTER_REQUESTS)
        self._ended = Family(catalog.ENDPOINT_REQUESTS)
        self._queued = Family(catalog.BACKEND_QUEUED)

    def count(self, record: AccessRecord) -> None:
        """A request ended without a whole answer of a replica."""
        self._http.add((record.route or UNMATCHED, ""))
        if record.error in _REACHED_A_REPLICA:
            self._routed.add((record.endpoint, ""))
        status_class = f"{record.status // 100}xx"
        self._ended.add((record.endpoint, record.backend, "", status_class, record.way))

    def set_queues(self, table: IngressTable, lengths: Mapping[str, int]) -> None:
        """Take how many wait in HAProxy.

        HAProxy has one queue for each backend; if several endpoints share it, its length is told
        under all their names.

        Args:
            table: what is served.
            lengths: requests that wait, by section.
        """
        queued = Family(catalog.BACKEND_QUEUED)
        for backend in table.backends:
            tag = backend.backend_tag
            names = [
                route.endpoint
                for route in table.routes
                if tag in dict(route.policy.weights) and route.route is not None
            ]
            if names:
                length = lengths.get(section_name(tag), 0)
                queued.set((tag, ",".join(sorted(names))), float(length))
        self._queued = queued

    def families(self, written: int, dropped: int, left_out: int) -> list[Family]:
        """The families as they are now.

        Args:
            written: records in its segments.
            dropped: records that could not be written.
            left_out: records of strays that were not to be written.
        """
        records = record_families(Component.INGRESS, written, dropped)
        sampled = Family(catalog.RECORDS_SAMPLED)
        sampled.set((Component.INGRESS.value,), float(left_out))
        return [self._http, self._routed, self._ended, self._queued, *records, sampled]
