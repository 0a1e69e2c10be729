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
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter
from observability.instrument.traceparent import parse_traceparent
from serve.call import Call
from serve.handle.untold import Reason
from serve.replica.failures import describe_failure
from serve.replica.metrics import ReplicaMetrics, Times
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
        times = read_times(visit)
        self._metrics.finish(
            context.endpoint, context.route, visit.way, visit.status, times, context.batch_size
        )
        trace = context.trace
        tracer = None if trace is None or not trace.is_sampled else tracing.active
        if not self._is_recorded and tracer is None:
            return
        record = _make_record(visit, times)
        if self._is_recorded:
            self._access.write(record)
        if tracer is not None and trace is not None:
            tracer.end_step(record, trace, describe_failure(visit.failure) if visit.failure else "")


def read_times(visit: Visit) -> Times:
    """A visit's times, milliseconds with three decimals."""
    sender_us = int(visit.sender_s * 1_000_000 + 0.5)
    replica_us = int((visit.gate_s + visit.thread_s) * 1_000_000 + 0.5)
    batch_us = int(visit.batch_s * 1_000_000 + 0.5)
    return Times(
        (sender_us + replica_us + batch_us) / 1000,
        int(visit.processing_s * 1_000_000 + 0.5) / 1000,
        sender_us / 1000,
        replica_us / 1000,
        batch_us / 1000,
        int(visit.send_s * 1_000_000 + 0.5) / 1000,
    )


def begin_record(visit: Visit, times: Times) -> AccessRecord:
    """What a record says of a visit, ended or not; `times` are its so far, of `read_times`."""
    context = visit.context
    record = AccessRecord(
        way=visit.way,
        method=visit.method,
        path=visit.path,
        endpoint=context.endpoint,
        route=context.route,
        request_id=context.request_id,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=context.parent_id,
        queue_ms=times.queue,
        sender_ms=times.sender,
        replica_ms=times.replica,
        batch_ms=times.batch,
        processing_ms=times.processing,
        send_ms=times.send,
        retries=visit.retries,
        batch_ids=context.batch_ids,
    )
    batch = context.batch
    if batch is not None:
        others = (each for each in batch.batch_ids if each != context.request_id)
        record.batch_mates = tuple(islice(others, MOST_MATES))
        record.batch_span_id = batch.span_id
    return record


def _make_record(visit: Visit, times: Times) -> AccessRecord:
    record = begin_record(visit, times)
    record.level = "ERROR" if visit.failure is not None else ""
    record.status = visit.status
    record.bytes_in = visit.bytes_in
    record.bytes_out = visit.bytes_out
    record.client = visit.client
    record.close_code = visit.close_code
    record.error = visit.error
    record.exception = visit.exception
    return record
