"""What a replica has under way of one request, as records that are never written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from observability.fields import UNDER_WAY
from observability.instrument.access import AccessRecord, to_ms
from observability.instrument.clock import format_time
from observability.instrument.context import RequestContext
from observability.instrument.gap import make_gap_line
from observability.instrument.segments import SegmentWriter
from serve.call import Call
from serve.handle.registry import calls_under_way
from serve.replica.trail import begin_record, read_times
from serve.replica.visit import Visit, under_way

Record = dict[str, Any]


def describe_present(
    request_id: str, static: Mapping[str, Any], writer: SegmentWriter
) -> list[Record]:
    """All that this process knows of a request and has not written. From any thread.

    Args:
        request_id: of the request.
        static: fields of all records of this process.
        writer: of its segments.

    Returns:
        A record of kind `under_way` for each step that runs here, for each call that it has made
        and that no replica has answered, and the record of what was dropped, if it could not be
        written yet.
    """
    visits = [visit for visit in list(under_way) if _is_of(request_id, visit.context)]
    spans = {visit.context.span_id for visit in visits}
    spans |= {visit.context.batch.span_id for visit in visits if visit.context.batch is not None}
    records = [_describe_visit(visit, static) for visit in visits]
    records += [
        _describe_call(call, backend, replica)
        for call, backend, replica in calls_under_way()
        if call.parent_id and call.parent_id in spans
    ]
    if (gap := writer.gap) is not None:
        records.append({**msgspec.to_builtins(make_gap_line(gap)), **static})
    return records


def _is_of(request_id: str, context: RequestContext) -> bool:
    return request_id == context.request_id or request_id in context.batch_ids


def _describe_visit(visit: Visit, static: Mapping[str, Any]) -> Record:
    stage = visit.stage
    return _finish(begin_record(visit, read_times(visit.as_if_ended())), stage, static)


def _describe_call(call: Call, backend: str, replica: str) -> Record:
    record = AccessRecord(
        way="shadow" if call.is_shadow else "call",
        method=call.method,
        endpoint=call.endpoint,
        request_id=call.request_id,
        parent_id=call.parent_id,
        queue_ms=to_ms(max(0.0, time.time() - call.sent_us / 1_000_000)),
        batch_ids=call.batch_ids,
    )
    static = {"component": "serve", "backend": backend}
    return _finish(
        record, "sent" if replica else "queue", static | ({"replica": replica} if replica else {})
    )


def _finish(record: AccessRecord, stage: str, static: Mapping[str, Any]) -> Record:
    record.kind, record.time = UNDER_WAY, format_time(time.time_ns())
    return {**msgspec.to_builtins(record), "stage": stage, **static}
