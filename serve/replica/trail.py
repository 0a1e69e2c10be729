"""What a replica leaves behind of each request: its access record and its figures.

Records wait in memory until an answer is about to leave; whoever writes the answer calls `flush`
first, so that a client which has the whole answer finds the records in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from observability.instrument.access import AccessLog
from observability.instrument.context import RequestContext
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter
from serve.replica.metrics import ReplicaMetrics


class ReplicaTrail:
    """One for each replica.

    Args:
        writer: the process's segments.
        static: fields of all its records.
        metrics: the replica's figures.
        config: what is recorded.
    """

    def __init__(
        self,
        writer: SegmentWriter,
        static: Mapping[str, Any],
        metrics: ReplicaMetrics,
        config: LoggingConfig,
    ) -> None:
        self._writer = writer
        self._static = dict(static)
        self._metrics = metrics
        self.flush = writer.flush
        self.configure(config)

    def configure(self, config: LoggingConfig) -> None:
        """Take another configuration; the next record follows it."""
        self._access = AccessLog(self._writer, {**self._static, **config.extra_fields})
        self._is_recorded = config.access_log
        self.has_client_address = config.client_address

    def end(
        self,
        context: RequestContext,
        way: str,
        status: int,
        queue_ms: float,
        processing_ms: float,
        **facts: Any,
    ) -> None:
        """A request ended.

        Args:
            context: the request.
            way: `http`, `websocket`, `call`, `remote` or `shadow`.
            status: HTTP status, or what HTTP would say.
            queue_ms: wait before the handler ran, milliseconds.
            processing_ms: from there to the answer's end, milliseconds.
            **facts: other fields of the access record.
        """
        self._metrics.finish(context.endpoint, context.route, way, status, queue_ms, processing_ms)
        if self._is_recorded:
            self._access.write(
                status,
                way=way,
                endpoint=context.endpoint,
                route=context.route,
                request_id=context.request_id,
                trace_id=context.trace_id,
                span_id=context.span_id,
                parent_id=context.parent_id,
                queue_ms=round(queue_ms, 3),
                processing_ms=round(processing_ms, 3),
                **facts,
            )
