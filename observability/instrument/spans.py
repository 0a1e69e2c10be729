"""Spans for OpenTelemetry, made of what is known when a request's step or a call has ended.

A step's span is made of its access record: what is in the one is in the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from observability.fields import Component
from observability.instrument.access import AccessRecord
from observability.instrument.context import SpanLink, Trace

HTTP_WAYS = frozenset({"http", "websocket"})

_FAILED = 500
_PLACE = re.compile(r" \([^()]+:\d+ in [^()]*\)$")
"""What a record's `error` ends with: the traceback has it too."""
_MS_NS = 1_000_000
_SCOPE = InstrumentationScope("tagtrail")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_UNSET = Status(StatusCode.UNSET)
_UNNAMED = "unknown_service"


class StepEnd(msgspec.Struct, gc=False):
    """A request's step that ended: its record, where it stands in its trace, and when.

    `traceback`: of the exception that ended it, if its record has none: an HTTP request's is in a
    log record of its own.
    """

    record: AccessRecord
    trace: Trace
    end_ns: int
    traceback: str = ""


class CallEnd(msgspec.Struct, gc=False):
    """A call through a handle, in its caller's process. `error`: "" for none."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    links: tuple[SpanLink, ...]
    attributes: dict[str, str]
    start_ns: int
    end_ns: int = 0
    error: str = ""


SpanSource: TypeAlias = StepEnd | CallEnd | ReadableSpan
"""What spans are made of. A ReadableSpan is one already: user code's."""


def make_resource(identity: Mapping[str, Any], service: str) -> Resource:
    """What a process is. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before `service`.

    Args:
        identity: fields of the process's records: component, backend, replica, node, pid.
        service: its service name, if the environment gives none.
    """
    attributes = {name: value for name, value in identity.items() if name != "pid"}
    if "replica" in identity:
        attributes[SERVICE_INSTANCE_ID] = identity["replica"]
    found = Resource.create(attributes)
    if str(found.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED):
        found = found.merge(Resource({SERVICE_NAME: service}))
    return _ProcessResource(found.attributes, found.schema_url)


class _ProcessResource(Resource):
    """A resource that is cheap to hash.

    OpenTelemetry's turns itself into JSON each time, and exporters ask at each span: an eighth of
    what a span costs.
    """

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def span_context(
    trace_id: str, span_id: str, state: str = "", is_sampled: bool = True
) -> SpanContext:
    """The ids as OpenTelemetry has them."""
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=_SAMPLED if is_sampled else _NOT_SAMPLED,
        trace_state=TraceState.from_header([state]) if state else None,
    )


class SpanMaker:
    """Makes the spans of one process.

    Args:
        identity: fields of the process's records.
        service: its service name, if the environment gives none.
    """

    def __init__(self, identity: Mapping[str, Any], service: str) -> None:
        self.resource = make_resource(identity, service)
        # HAProxy exports nothing: the replica that answers speaks for it.
        ingress = {"component": Component.INGRESS.value, "node": identity.get("node", "")}
        self._ingress = make_resource(ingress, Component.INGRESS.value)

    def make(self, source: SpanSource) -> list[ReadableSpan]:
        """The spans of one thing that ended, the outermost first."""
        if isinstance(source, StepEnd):
            return self._make_step(source)
        return [self._make_call(source) if isinstance(source, CallEnd) else source]

    def _make_step(self, step: StepEnd) -> list[ReadableSpan]:
        record, trace = step.record, step.trace
        begun_ns = step.end_ns - int((record.processing_ms + record.send_ms) * _MS_NS)
        attributes = _describe_step(record)
        spans = []
        if trace.ingress_id:
            above = self._span_of(
                step,
                self._ingress,
                trace.ingress_id,
                trace.parent_id,
                attributes,
                begun_ns - int(record.queue_ms * _MS_NS),
            )
            spans.append(above)
        if trace.span_id:
            own = self._span_of(
                step,
                self.resource,
                trace.span_id,
                trace.ingress_id or trace.parent_id,
                attributes | {"queue_ms": record.queue_ms},
                begun_ns,
            )
            spans.append(own)
        return spans

    def _span_of(
        self,
        step: StepEnd,
        resource: Resource,
        span_id: str,
        parent_id: str,
        attributes: dict[str, Any],
        start_ns: int,
    ) -> ReadableSpan:
        record, state = step.record, step.trace.state
        status = _UNSET
        if record.status >= _FAILED:
            status = Status(StatusCode.ERROR, _clean(record.error))
        return ReadableSpan(
            _name_step(record),
            span_context(record.trace_id, span_id, state),
            _parent(record.trace_id, parent_id, state),
            resource,
            attributes,
            _exception_events(step),
            kind=SpanKind.SERVER,
            status=status,
            start_time=start_ns,
            end_time=step.end_ns,
            instrumentation_scope=_SCOPE,
        )

    def _make_call(self, call: CallEnd) -> ReadableSpan:
        attributes, status = call.attributes, _UNSET
        if call.error:
            attributes = attributes | {"error.type": _error_type(call.error)}
            status = Status(StatusCode.ERROR, _clean(call.error))
        return ReadableSpan(
            _clean(call.name),
            span_context(call.trace_id, call.span_id, call.state),
            _parent(call.trace_id, call.parent_id, call.state),
            self.resource,
            {name: _clean(value) for name, value in attributes.items()},
            links=[Link(span_context(*link)) for link in call.links],
            kind=SpanKind.CLIENT,
            status=status,
            start_time=call.start_ns,
            end_time=call.end_ns,
            instrumentation_scope=_SCOPE,
        )


def _parent(trace_id: str, span_id: str, state: str) -> SpanContext | None:
    return span_context(trace_id, span_id, state) if span_id else None


def _name_step(record: AccessRecord) -> str:
    if record.way not in HTTP_WAYS:
        return _clean(f"{record.endpoint}.{record.method}")
    # Without a route no endpoint has the path, without a method the request could not be read.
    return _clean(f"{record.method or 'HTTP'} {record.route}".rstrip())


def _describe_step(record: AccessRecord) -> dict[str, Any]:
    """The record's fields, those of HTTP under the names that OpenTelemetry has for them."""
    attributes: dict[str, Any] = {
        "request_id": record.request_id,
        "endpoint": record.endpoint,
        "way": record.way,
    }
    if record.way in HTTP_WAYS:
        attributes["http.request.method"] = record.method
        attributes["http.route"] = record.route
        attributes["http.response.status_code"] = record.status
        attributes["url.path"] = _clean(record.path)
    else:
        attributes["method"] = _clean(record.method)
    if record.backend:  # an ingress's record; a replica has it in its resource
        attributes["backend"] = record.backend
    if record.error:
        attributes["error.type"] = _error_type(record.error)
    return attributes


def _exception_events(step: StepEnd) -> tuple[Event, ...]:
    traceback = step.record.exception or step.traceback
    if not traceback:
        return ()
    kind, _, message = step.record.error.partition(": ")
    return (
        Event(
            "exception",
            {
                "exception.type": kind,
                "exception.message": _clean(_PLACE.sub("", message)),
                "exception.stacktrace": _clean(traceback),
            },
            step.end_ns,
        ),
    )


def _error_type(error: str) -> str:
    return _clean(error.partition(":")[0])


def _clean(text: str) -> str:
    """Half a surrogate pair as its escape: it would cost the whole batch."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
