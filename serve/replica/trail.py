"""What a replica leaves behind of each request: its access record and its figures.

Records wait in memory until an answer is about to leave; whoever writes the answer calls `flush`
first, so that a client which has the whole answer finds the records in the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from observability.instrument import tracing
from observability.instrument.access import AccessRecord, to_ms
from observability.instrument.access_log import AccessLog
from observability.instrument.context import RequestContext
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter
from observability.instrument.traceparent import parse_traceparent
from serve.call import Call
from serve.handle.untold import Reason
from serve.replica.failures import describe_failure
from serve.replica.metrics import ReplicaMetrics, Stages
from serve.replica.visit import Visit

MOST_MATES = 20
"""So many of the requests that were in a batch with one are named in its record."""


class ReplicaTrail:
    """One for each replica.

    Args:
        writer: the process's segments.
        static: fields of all its records.
        metrics: the replica's figures.
        config: what is recorded.

    Attributes:
        hold: takes what ends the visit of a whole answer that is about to leave; it is called
            before that does. Not at once: an application may answer and raise on, as Starlette
            does with what nobody caught.
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
        self._leaving: list[Callable[[], None]] = []
        self.hold = self._leaving.append
        self.configure(config)

    def configure(self, config: LoggingConfig) -> None:
        """Take another configuration; the next record follows it."""
        static = {**self._static, **config.extra_fields}
        self._access = AccessLog(self._writer, static)
        own = ("backend", "replica")
        self._untold = AccessLog(self._writer, {k: v for k, v in static.items() if k not in own})
        self._is_recorded = config.access_log
        self.has_client_address = config.client_address

    def flush(self) -> None:
        """Write all that waits: something leaves next."""
        while self._leaving:
            self._leaving.pop()()
        self._writer.flush()

    def tell_call(
        self, call: Call, way: str, backend: str, reason: Reason, replica: str = ""
    ) -> None:
        """A call that this replica's code made ended, and no replica had it or lives to tell.

        Its record names the replica that died with it, if one did. From any thread.
        """
        error, status = reason.value
        was_sent = reason is Reason.REPLICA_DIED
        self._metrics.count_untold(call.endpoint, backend, way, status, was_sent=was_sent)
        if self._is_recorded:
            caller = parse_traceparent(call.traceparent)
            wait_s = time.time() - call.sent_us / 1_000_000 if call.sent_us else 0.0
            record = AccessRecord(
                way=way,
                method=call.method,
                status=status,
                endpoint=call.endpoint,
                request_id=call.request_id,
                trace_id="" if caller is None else caller.trace_id,
                parent_id=call.parent_id,
                queue_ms=to_ms(max(0.0, wait_s)),
                error=error,
                backend=backend,
                replica=replica,
            )
            self._untold.write(record)

    def end(self, visit: Visit) -> None:
        """A request ended."""
        context = visit.context
        queue_ms, processing_ms = to_ms(visit.queue_s), to_ms(visit.processing_s)
        stages = (
            to_ms(visit.sender_s),
            to_ms(visit.gate_s + visit.thread_s),
            to_ms(visit.batch_s),
            to_ms(visit.send_s),
        )
        self._metrics.finish(
            context.endpoint,
            context.route,
            visit.way,
            visit.status,
            queue_ms,
            processing_ms,
            context.batch_size,
            stages,
        )
        trace = context.trace
        tracer = None if trace is None or not trace.is_sampled else tracing.active
        if not self._is_recorded and tracer is None:
            return
        record = _make_record(visit, queue_ms, processing_ms, stages)
        if context.batch is not None:
            _name_mates(record, context.batch)
        if self._is_recorded:
            self._access.write(record)
        if tracer is not None and trace is not None:
            tracer.end_step(record, trace, describe_failure(visit.failure) if visit.failure else "")


def _make_record(
    visit: Visit, queue_ms: float, processing_ms: float, stages: Stages
) -> AccessRecord:
    context = visit.context
    sender_ms, replica_ms, batch_ms, send_ms = stages
    return AccessRecord(
        level="ERROR" if visit.failure is not None else "",
        way=visit.way,
        method=visit.method,
        path=visit.path,
        status=visit.status,
        endpoint=context.endpoint,
        route=context.route,
        request_id=context.request_id,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        queue_ms=queue_ms,
        sender_ms=sender_ms,
        replica_ms=replica_ms,
        batch_ms=batch_ms,
        processing_ms=processing_ms,
        send_ms=send_ms,
        bytes_in=visit.bytes_in,
        bytes_out=visit.bytes_out,
        client=visit.client,
        retries=visit.retries,
        close_code=visit.close_code,
        error=visit.error,
        exception=visit.exception,
        batch_ids=context.batch_ids,
    )


def _name_mates(record: AccessRecord, batch: RequestContext) -> None:
    """Say who was in the batch with a request, and under which span its calls are."""
    others = (each for each in batch.batch_ids if each != record.request_id)
    record.batch_mates = tuple(islice(others, MOST_MATES))
    record.batch_span_id = batch.span_id
