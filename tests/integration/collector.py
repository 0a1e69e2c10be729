"""A collector of traces: an HTTP server that reads OTLP's real wire format (http/protobuf)."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.integration.http_server import serve_http


@dataclass
class Span:
    """A span as the collector got it, with its resource's attributes beside its own."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    is_error: bool
    message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[dict[str, Any]]
    links: list[tuple[str, str]]

    @property
    def component(self) -> str:
        return str(self.resource.get("component", ""))


@dataclass
class Collector:
    """What arrived so far."""

    url: str
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def wait(
        self, choose: Callable[[Span], bool], count: int = 1, timeout_s: float = 60
    ) -> list[Span]:
        """At least so many spans of a kind, in the order of their start."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = sorted(filter(choose, list(self.spans)), key=lambda span: span.start_ns)
            if len(found) >= count:
                return found
            names = [(s.name, s.kind, s.component) for s in self.spans]
            assert time.monotonic() < deadline, f"{len(found)} of {count} came; all: {names}"
            time.sleep(0.05)


@contextmanager
def run_collector(port: int = 0) -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            is_traces = self.path == "/v1/traces"
            if is_traces:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                collector.spans += read_spans(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if is_traces else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with serve_http(Handler, port) as address:
        collector = Collector(f"http://{address}")
        yield collector


def read_spans(body: bytes) -> list[Span]:
    """The spans of one request's body."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _read_span(span, _read_attributes(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _read_span(span: trace_pb2.Span, resource: dict[str, Any]) -> Span:
    return Span(
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        span.status.message,
        _read_attributes(span.attributes),
        resource,
        [{"name": e.name, **_read_attributes(e.attributes)} for e in span.events],
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


def _read_attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
