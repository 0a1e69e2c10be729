"""Gives steps and calls their place in a W3C trace, and has their spans exported.

Knows OpenTelemetry: imported by `tracing.py`, and only when traces are asked for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import time
from typing import Any

from opentelemetry.context import Context, attach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    ProxyTracerProvider,
    SpanContext,
    get_current_span,
    get_tracer_provider,
    set_tracer_provider,
)

from observability.instrument.access import AccessRecord
from observability.instrument.context import (
    RequestContext,
    Trace,
    new_ids,
    request_context,
)
from observability.instrument.otel_internals import SPAN_KEY
from observability.instrument.sampling import Sampler
from observability.instrument.spanqueue import SpanQueue
from observability.instrument.spans import CallEnd, StepEnd, span_context
from observability.instrument.traceparent import TraceParent, format_traceparent

_NOTHING = Context()
_MAX_ERROR = 1000


class CurrentSpan(NonRecordingSpan):
    """What OpenTelemetry's API knows of a step: its ids, worked out when somebody asks."""

    def __init__(self, trace_id: str, trace: Trace) -> None:
        self._ids = (trace_id, trace)
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """The ids that the step's own span has too."""
        if self._made is None:
            trace_id, trace = self._ids
            self._made = span_context(trace_id, trace.span_id, trace.state, trace.is_sampled)
        return self._made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_span_context()!r})"


class OwnIds(IdGenerator):
    """Ids of the spans that the user's own code makes.

    OpenTelemetry's are numbers of the module `random`: replicas whose code calls `random.seed(0)`
    would all give the same.
    """

    def generate_span_id(self) -> int:
        """A new span's id."""
        return 1 + secrets.randbelow(2**64 - 1)

    def generate_trace_id(self) -> int:
        """A new trace's id."""
        return 1 + secrets.randbelow(2**128 - 1)

    def is_trace_id_random(self) -> bool:
        """It is, in all of its bits."""
        return True


class CallSpan:
    """The span of one call through a handle, from sending it to its answer.

    Args:
        queue: where it goes then.
        call: what is known of it.
        is_sampled: whether it goes anywhere.
    """

    __slots__ = ("_call", "_is_sampled", "_queue")

    def __init__(self, queue: SpanQueue, call: CallEnd, is_sampled: bool) -> None:
        self._queue = queue
        self._call = call
        self._is_sampled = is_sampled

    @property
    def traceparent(self) -> str:
        """What the callee is told."""
        return format_traceparent(self._call.trace_id, self._call.span_id, self._is_sampled)

    @property
    def tracestate(self) -> str:
        """What the callee is told too."""
        return self._call.state

    def finish(self, future: asyncio.Future[Any] | concurrent.futures.Future[Any]) -> None:
        """The answer, an error or a cancellation is there: a future's done callback."""
        if future.cancelled():
            self.fail("cancelled")
        else:  # exception() would tell asyncio that somebody has seen to it
            self.fail(future._exception)

    def fail(self, error: BaseException | str | None) -> None:
        """It ended so. None: well."""
        if not self._is_sampled:
            return
        self._call.end_ns = time.time_ns()
        if error is not None:
            self._call.error = error if isinstance(error, str) else _describe(error)
        self._queue.put(self._call)


class Tracer:
    """The traces of one process.

    Args:
        sampler: which are exported.
        queue: where what has ended goes.
        resource: what this process is.
    """

    def __init__(self, sampler: Sampler, queue: SpanQueue, resource: Resource) -> None:
        self.queue = queue
        self._sampler = sampler
        self._resource = resource

    def join(
        self, context: RequestContext, caller: TraceParent | None, state: str, through_ingress: bool
    ) -> None:
        """Give a step its ids, and make them OpenTelemetry's current ones.

        Args:
            context: of the step.
            caller: who called, by its own words.
            state: its `tracestate`.
            through_ingress: an ingress stands between the two and needs a span.
        """
        trace_id, span_id, ingress_id = new_ids()
        parent_id, parent = "", None
        if caller is not None:
            trace_id, parent_id, parent = caller
        context.trace_id, context.span_id = trace_id, span_id
        is_sampled = self._sampler.decide(trace_id, parent)
        context.trace = Trace(
            span_id, is_sampled, state, parent_id, ingress_id if through_ingress else ""
        )
        self.show(context)

    def show(self, context: RequestContext | None) -> None:
        """Make a step OpenTelemetry's current span, in this task or thread."""
        trace = None if context is None else context.trace
        if context is None or trace is None or not trace.span_id:
            attach(_NOTHING)
        else:
            # What set_span_in_context() does, without the copies of a context that is empty.
            attach(Context({SPAN_KEY: CurrentSpan(context.trace_id, trace)}))

    def end_step(self, record: AccessRecord, trace: Trace, traceback: str = "") -> None:
        """A step of a sampled trace has ended now. `traceback`: if the record has none."""
        self.queue.put(StepEnd(record, trace, time.time_ns(), traceback))

    def end_at_ingress(self, record: AccessRecord, caller: TraceParent | None) -> None:
        """A request has ended that has an ingress's span only. Fills in its ids."""
        trace_id, span_id, _ = new_ids()
        parent_id, parent = "", None
        if caller is not None:
            trace_id, parent_id, parent = caller
        record.trace_id, record.span_id = trace_id, span_id
        if self._sampler.decide(trace_id, parent):
            self.end_step(record, Trace("", True, "", parent_id, span_id))

    def open_call(self, endpoint: str, method: str, way: str, request_id: str) -> CallSpan:
        """A call through a handle begins, below OpenTelemetry's current span.

        That is the step's, one that user code has opened below it, or one of a driver's own.
        """
        above = get_current_span().get_span_context()
        context = request_context.get()
        trace = None if context is None else context.trace
        attributes = {
            "endpoint": endpoint,
            "method": method,
            "way": way,
            "request_id": request_id,
        }
        trace_id, span_id, _ = new_ids()
        parent_id, parent, state = "", None, ""
        if above.is_valid:
            trace_id, parent_id = f"{above.trace_id:032x}", f"{above.span_id:016x}"
            parent, state = above.trace_flags.sampled, above.trace_state.to_header()
        call = CallEnd(
            f"{endpoint}.{method}",
            trace_id,
            span_id,
            parent_id,
            state,
            () if trace is None or parent_id else trace.links,
            attributes,
            time.time_ns(),
        )
        return CallSpan(self.queue, call, self._sampler.decide(trace_id, parent))

    def serve_api(self) -> None:
        """Export what user code makes with OpenTelemetry's API, unless it does so by itself."""
        if isinstance(get_tracer_provider(), ProxyTracerProvider):
            provider = TracerProvider(
                resource=self._resource, shutdown_on_exit=False, id_generator=OwnIds()
            )
            provider.add_span_processor(_Forward(self.queue))
            set_tracer_provider(provider)


class _Forward(SpanProcessor):
    """Takes the spans of user code."""

    def __init__(self, queue: SpanQueue) -> None:
        self._queue = queue

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._queue.put(span)


def _describe(error: BaseException) -> str:
    """An error in one line: the user's own, if it came from a replica."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        error = cause
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise all
        text = "(its text can't be told)"
    return f"{type(error).__name__}: {text}"[:_MAX_ERROR]
