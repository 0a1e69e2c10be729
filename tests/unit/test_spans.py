"""A span says what the access record says; ids, parents and resources are where they belong."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from observability.instrument.access import AccessRecord
from observability.instrument.context import RequestContext, Trace, join_contexts, request_context
from observability.instrument.sampling import Sampler
from observability.instrument.spans import CallEnd, SpanMaker, StepEnd
from observability.instrument.traceparent import TraceParent
from observability.instrument.tracer import Tracer

TRACE, OWN, INGRESS, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "a" * 16, "b" * 16, "c" * 16
IDENTITY = {"component": "serve", "backend": "b", "replica": "b#xyz", "node": "10.0.0.1", "pid": 7}
END_NS = 1_800_000_000_000_000_000


class Queue:
    """Keeps what is put in."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)


@pytest.fixture
def maker() -> SpanMaker:
    return SpanMaker(IDENTITY, "b")


@pytest.fixture
def tracer(maker: SpanMaker) -> Tracer:
    return make_tracer(maker, Sampler())


def make_tracer(maker: SpanMaker, sampler: Sampler) -> Tracer:
    return Tracer(sampler, Queue(), maker.resource)  # type: ignore[arg-type]


def access(**given: Any) -> AccessRecord:
    facts: dict[str, Any] = {
        "way": "http",
        "method": "POST",
        "path": "/users/7",
        "status": 200,
        "endpoint": "e",
        "route": "/users/{id}",
        "request_id": "r1",
        "trace_id": TRACE,
        "span_id": OWN,
        "queue_ms": 2.0,
        "processing_ms": 10.0,
    }
    return AccessRecord(**(facts | given))


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    parent = "" if span.parent is None else f"{span.parent.span_id:016x}"
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def test_a_request_through_the_ingress_has_a_span_of_both(maker: SpanMaker) -> None:
    trace = Trace(OWN, True, "k=v", CLIENT, INGRESS)
    ingress, replica = maker.make(StepEnd(access(), trace, END_NS))

    assert ids(ingress) == (TRACE, INGRESS, CLIENT)
    assert ids(replica) == (TRACE, OWN, INGRESS)
    assert ingress.resource.attributes["component"] == "ingress"
    assert replica.resource.attributes["replica"] == "b#xyz"
    assert replica.resource.attributes["service.name"] == "b"
    assert replica.resource.attributes["service.instance.id"] == "b#xyz"
    for span in (ingress, replica):
        assert (span.name, span.kind, span.end_time) == (
            "POST /users/{id}",
            SpanKind.SERVER,
            END_NS,
        )
        assert span.status.status_code is StatusCode.UNSET
        assert span.context is not None and span.context.trace_state.to_header() == "k=v"
    assert replica.start_time == END_NS - 10_000_000
    assert ingress.start_time == END_NS - 12_000_000
    assert dict(replica.attributes or {}) == {
        "request_id": "r1",
        "endpoint": "e",
        "way": "http",
        "http.request.method": "POST",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "url.path": "/users/7",
        "queue_ms": 2.0,
    }


def test_a_call_has_a_span_of_the_replica_alone(maker: SpanMaker) -> None:
    record = access(way="call", method="predict", route="", path="")
    (span,) = maker.make(StepEnd(record, Trace(OWN, True, "", CLIENT), END_NS))
    assert ids(span) == (TRACE, OWN, CLIENT)
    assert span.name == "e.predict"
    assert span.attributes is not None and span.attributes["method"] == "predict"


def test_a_request_that_no_replica_answered_has_a_span_of_the_ingress_alone(
    maker: SpanMaker,
) -> None:
    record = access(status=503, error="queue_full", route="/r", backend="b")
    (span,) = maker.make(StepEnd(record, Trace("", True, "", "", INGRESS), END_NS))
    assert ids(span) == (TRACE, INGRESS, "")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert (span.attributes["backend"], span.attributes["error.type"]) == ("b", "queue_full")


@pytest.mark.parametrize(("status", "is_error"), [(200, False), (404, False), (500, True)])
def test_a_servers_failure_is_an_error_and_a_clients_is_none(
    maker: SpanMaker, status: int, is_error: bool
) -> None:
    (span,) = maker.make(StepEnd(access(status=status), Trace(OWN, True), END_NS))
    assert (span.status.status_code is StatusCode.ERROR) is is_error


def test_an_exception_is_an_event_with_its_traceback(maker: SpanMaker) -> None:
    record = access(status=500, error="ValueError: bad: \ud800", exception="Traceback \ud800")
    (span,) = maker.make(StepEnd(record, Trace(OWN, True), END_NS))
    (event,) = span.events
    assert dict(event.attributes or {}) == {
        "exception.type": "ValueError",
        "exception.message": "bad: \\ud800",
        "exception.stacktrace": "Traceback \\ud800",
    }


def test_a_call_in_its_callers_process_is_a_clients_span_with_its_links(maker: SpanMaker) -> None:
    call = CallEnd(
        "e.f", TRACE, OWN, CLIENT, "", ((TRACE, INGRESS),), {"way": "call"}, 5, 9, "X: y"
    )
    (span,) = maker.make(call)
    assert ids(span) == (TRACE, OWN, CLIENT)
    assert (span.kind, span.start_time, span.end_time) == (SpanKind.CLIENT, 5, 9)
    assert span.status.status_code is StatusCode.ERROR
    assert [f"{link.context.span_id:016x}" for link in span.links] == [INGRESS]


@pytest.mark.parametrize("variable", ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"])
def test_the_environments_service_name_goes_before(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "shop" if variable == "OTEL_SERVICE_NAME" else "service.name=shop,zone=a"
    monkeypatch.setenv(variable, text)
    assert SpanMaker(IDENTITY, "b").resource.attributes["service.name"] == "shop"


async def test_a_step_takes_up_its_callers_trace(tracer: Tracer) -> None:
    context = RequestContext("r")
    tracer.join(context, TraceParent(TRACE, CLIENT, True), "k=v", through_ingress=True)
    assert context.trace is not None
    assert (context.trace_id, context.trace.parent_id) == (TRACE, CLIENT)
    assert context.span_id == context.trace.span_id not in ("", CLIENT, context.trace.ingress_id)
    assert context.trace_headers == {
        "traceparent": f"00-{TRACE}-{context.span_id}-01",
        "tracestate": "k=v",
    }


async def test_a_step_without_a_caller_begins_a_trace(tracer: Tracer) -> None:
    contexts = [RequestContext("r"), RequestContext("r")]
    for context in contexts:
        tracer.join(context, None, "", through_ingress=False)
        assert len(context.trace_id) == 32
        assert context.trace is not None and context.trace.ingress_id == ""
    assert contexts[0].trace_id != contexts[1].trace_id


async def test_what_is_not_sampled_is_named_and_not_exported(maker: SpanMaker) -> None:
    tracer = make_tracer(maker, Sampler(0, follows_parent=True))
    context = RequestContext("r")
    tracer.join(context, None, "", through_ingress=True)
    assert context.trace_headers["traceparent"].endswith("-00")
    call = tracer.open_call("e", "f", "call", "r")
    call.fail(None)
    tracer.end_at_ingress(access(), None)
    assert tracer.queue.items == []  # type: ignore[attr-defined]


async def test_a_call_hangs_under_the_step_that_makes_it(tracer: Tracer) -> None:
    context = RequestContext("r")
    request_context.set(context)
    tracer.join(context, TraceParent(TRACE, CLIENT, True), "", through_ingress=False)
    call = tracer.open_call("e", "f", "call", "r")
    call.fail(ValueError("bad"))
    (end,) = tracer.queue.items  # type: ignore[attr-defined]
    assert (end.trace_id, end.parent_id) == (TRACE, context.span_id)
    assert call.traceparent == f"00-{TRACE}-{end.span_id}-01"
    assert end.error == "ValueError: bad"
    assert end.end_ns >= end.start_ns


async def test_a_batch_of_several_traces_links_them_all(tracer: Tracer) -> None:
    contexts: list[RequestContext | None] = []
    for number in range(3):
        context = RequestContext(f"r{number}")
        tracer.join(context, None, "", through_ingress=False)
        contexts.append(context)
    joined = join_contexts([*contexts, None])
    request_context.set(joined)
    tracer.show(joined)
    tracer.open_call("e", "f", "call", "r").fail(None)
    (end,) = tracer.queue.items  # type: ignore[attr-defined]
    assert end.parent_id == ""
    assert list(end.links) == [(c.trace_id, c.span_id) for c in contexts if c is not None]
    request_context.set(None)
    tracer.show(None)


async def test_a_batch_of_one_trace_belongs_to_it(tracer: Tracer) -> None:
    contexts: list[RequestContext | None] = []
    for number in range(2):
        context = RequestContext(f"r{number}")
        tracer.join(context, TraceParent(TRACE, CLIENT, True), "", through_ingress=False)
        contexts.append(context)
    joined = join_contexts(contexts)
    assert joined is not None and joined.trace_id == TRACE
