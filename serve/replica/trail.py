"""What a replica leaves behind of each request: its access record and its figures.

Records wait in memory until an answer is about to leave; whoever writes the answer calls `flush`
first, so that a client which has the whole answer finds the records in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from observability.instrument import tracing
from observability.instrument.access import AccessRecord, to_ms
from observability.instrument.access_log import AccessLog
from observability.instrument.context import RequestContext
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter
from serve.replica.callable import describe_failure
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
        method: str,
        path: str,
        status: int,
        queue_s: float,
        processing_s: float,
        bytes_in: int = -1,
        bytes_out: int = -1,
        client: str = "",
        error: str = "",
        exception: str = "",
        failure: BaseException | None = None,
    ) -> None:
        """A request ended.

        Args:
            context: the request.
            way: `http`, `websocket`, `call`, `remote` or `shadow`.
            method: HTTP method, or the method called.
            path: raw path; "" for calls.
            status: HTTP status, or what HTTP would say.
            queue_s: wait before the handler ran, seconds.
            processing_s: from there to the answer's end, seconds.
            bytes_in: of the request's body; -1: not known.
            bytes_out: of the answer's body; -1: not known.
            client: address, if it is to be told.
            error: why it is no success.
            exception: traceback.
            failure: an exception whose traceback is in a log record of its own.
        """
        queue_ms, processing_ms = to_ms(queue_s), to_ms(processing_s)
        self._metrics.finish(
            context.endpoint,
            context.route,
            way,
            status,
            queue_ms,
            processing_ms,
            context.batch_size,
        )
        trace = context.trace
        tracer = None if trace is None or not trace.is_sampled else tracing.active
        if not self._is_recorded and tracer is None:
            return
        record = AccessRecord(
            "",
            "",
            "",
            way,
            method,
            path,
            status,
            context.endpoint,
            context.route,
            context.request_id,
            context.trace_id,
            context.span_id,
            context.parent_id,
            queue_ms,
            processing_ms,
            bytes_in,
            bytes_out,
            client,
            0,
            error,
            exception,
        )
        if self._is_recorded:
            self._access.write(record)
        if tracer is not None and trace is not None:
            tracer.end_step(record, trace, describe_failure(failure) if failure else "")
