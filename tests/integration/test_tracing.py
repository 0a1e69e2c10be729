"""Traces with a real collector: one tree of ingress, replica and calls; their ids in records."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import serve
from tests.integration.collector import Collector, Span, run_collector
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import read_records
from tests.integration.traced import QUICKLY, run_instance

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


def sending_to(collector: Collector) -> dict[str, str]:
    """What has a process send its spans there, with a header of the tests' own."""
    return {
        **QUICKLY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "tenant=tests",
    }


@pytest.fixture(scope="module")
def shared_instance(ray_cluster: None, collector: Collector) -> Iterator[Instance]:
    variables = {**sending_to(collector), "OTEL_RESOURCE_ATTRIBUTES": "zone=a"}
    with run_instance(variables) as running:
        yield running


def look(request: Any) -> dict[str, str]:
    logging.getLogger("looked").info("here")
    context = serve.get_request_context()
    return {"trace": context.trace_id, **context.trace_headers}


class Front:
    """Asks the endpoint of its name, by both ways."""

    def __init__(self, model: str) -> None:
        self.handle = serve.get_handle(model, sync=False)

    async def __call__(self, request: Any) -> list[Any]:
        return [
            await self.handle.call(None),
            await (await self.handle.remote(None)),
        ]


def refuse(request: Any) -> None:
    raise ValueError("not today")


def work_with_api(request: Any) -> str:
    from opentelemetry import trace

    with trace.get_tracer("mine").start_as_current_span("tokenize"):
        return "done"


class Batched:
    def __init__(self, model: str) -> None:
        self.handle = serve.get_handle(model, sync=False)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=30)
    async def together(self, items: list[Any]) -> list[Any]:
        answer = await self.handle.call(None)
        return [answer] * len(items)

    async def __call__(self, request: Any) -> Any:
        return await self.together(None)


def ask(instance: Instance, path: str, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(instance.url(path), headers=names, timeout=30)


def traceparent(response: httpx.Response) -> tuple[str, str]:
    _, trace_id, span_id, _ = response.headers["traceparent"].split("-")
    return trace_id, span_id


def in_trace(collector: Collector, trace_id: str, count: int) -> list[Span]:
    return collector.wait(lambda span: span.trace_id == trace_id, count)


@pytest.fixture(scope="module")
def looked(keep: Deploy) -> str:
    """A backend of `look`, at `/look`."""
    return keep(look, route="/look")


@pytest.fixture(scope="module")
def refusing(keep: Deploy) -> str:
    """A backend of `refuse`, at `/refuse`."""
    return keep(refuse, route="/refuse")


def test_a_clients_trace_goes_through_ingress_replica_and_calls(
    instance: Instance, deploy: Deploy, looked: str, collector: Collector
) -> None:
    model = looked
    front = deploy(Front, model, route="/front")
    response = ask(instance, "/front", traceparent=f"00-{TRACE}-{CLIENT}-01", tracestate="k=v")
    assert response.status_code == 200

    spans = in_trace(collector, TRACE, 6)
    assert len(spans) == 6
    (ingress,) = [s for s in spans if s.component == "ingress"]
    assert (ingress.parent_id, ingress.kind, ingress.name) == (CLIENT, "SERVER", "GET /front")
    by_parent: dict[str, list[Span]] = {}
    for span in spans:
        by_parent.setdefault(span.parent_id, []).append(span)
        assert span.state == "k=v"
        assert span.resource["zone"] == "a"
        assert span.start_ns <= span.end_ns
    (step,) = by_parent[ingress.span_id]
    assert traceparent(response) == (TRACE, step.span_id)
    assert step.resource["backend"] == front
    assert step.resource["replica"] == response.headers["x-serve-replica"]
    assert step.resource["service.name"] == front
    calls = by_parent[step.span_id]
    assert [(c.kind, c.attributes["way"], c.resource["backend"]) for c in calls] == [
        ("CLIENT", "call", front),
        ("CLIENT", "remote", front),
    ]
    for call, answer in zip(calls, response.json(), strict=True):
        (callee,) = by_parent[call.span_id]
        assert (callee.kind, callee.resource["backend"]) == ("SERVER", model)
        assert answer == {
            "trace": TRACE,
            "traceparent": f"00-{TRACE}-{callee.span_id}-01",
            "tracestate": "k=v",
        }
        assert step.start_ns <= call.start_ns  # of one process: the ingress has a clock of its own
        # Ray tells of a remote call's end beside its result, which may be there before.
        assert call.attributes["way"] == "remote" or call.end_ns <= step.end_ns
    assert all(sent["tenant"] == "tests" for sent in collector.headers)


def test_records_have_the_ids_of_their_spans(
    instance: Instance, looked: str, collector: Collector
) -> None:
    response = ask(instance, "/look", X_Request_ID="traced-1")
    trace_id, span_id = traceparent(response)
    records = read_records(lambda record: record.get("request_id") == "traced-1")
    assert {record["kind"] for record in records} == {"log", "access"}
    for record in records:
        assert (record["trace_id"], record["span_id"]) == (trace_id, span_id)
    assert response.json()["trace"] == trace_id
    assert {span.span_id for span in in_trace(collector, trace_id, 2)} > {span_id}


@pytest.mark.parametrize(
    "sent", ["", "nonsense", f"00-{'0' * 32}-{CLIENT}-01", f"00-{TRACE.upper()}-{CLIENT}-01"]
)
def test_a_header_that_is_not_well_formed_begins_a_new_trace(
    instance: Instance, looked: str, collector: Collector, sent: str
) -> None:
    trace_id, _ = traceparent(ask(instance, "/look", traceparent=sent, tracestate="k=v"))
    assert trace_id != TRACE
    (ingress,) = [s for s in in_trace(collector, trace_id, 2) if s.component == "ingress"]
    assert (ingress.parent_id, ingress.state) == ("", "")


def test_two_headers_begin_a_new_trace(instance: Instance, looked: str) -> None:
    twice = [("traceparent", f"00-{TRACE}-{CLIENT}-01")] * 2
    assert traceparent(httpx.get(instance.url("/look"), headers=twice))[0] != TRACE


def test_what_the_client_does_not_sample_is_not_exported(
    instance: Instance, looked: str, collector: Collector
) -> None:
    unwanted, wanted = "1" * 32, "2" * 32
    response = ask(instance, "/look", traceparent=f"00-{unwanted}-{CLIENT}-00")
    assert response.headers["traceparent"].endswith("-00")
    assert response.json()["trace"] == unwanted
    ask(instance, "/look", traceparent=f"00-{wanted}-{CLIENT}-01")
    in_trace(collector, wanted, 2)
    assert unwanted not in {span.trace_id for span in collector.spans}


def test_a_failure_is_an_error_with_its_traceback(
    instance: Instance, refusing: str, collector: Collector
) -> None:
    response = ask(instance, "/refuse")
    assert response.status_code == 500
    spans = in_trace(collector, traceparent(response)[0], 2)
    for span in spans:
        assert span.is_error
        assert span.attributes["error.type"] == "ValueError"
        (event,) = span.events
        assert event["exception.message"] == "not today"
        assert "in refuse" in event["exception.stacktrace"]


def test_a_failed_call_is_an_error_in_its_callers_span(
    instance: Instance, deploy: Deploy, refusing: str, collector: Collector
) -> None:
    deploy(Front, refusing, route="/front")
    response = ask(instance, "/front")
    spans = in_trace(collector, traceparent(response)[0], 4)
    (call,) = [span for span in spans if span.kind == "CLIENT"]
    assert call.is_error and call.message == "ValueError: not today"


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [("GET", "/no/such", 404, "GET"), ("PUT", "/look", 405, "PUT /look")],
)
def test_a_request_that_no_replica_answers_has_its_ingresss_span(
    instance: Instance,
    looked: str,
    collector: Collector,
    method: str,
    path: str,
    status: int,
    name: str,
) -> None:
    trace_id = f"{status:032x}"
    headers = {"traceparent": f"00-{trace_id}-{CLIENT}-01", "X-Request-ID": f"none-{status}"}
    assert httpx.request(method, instance.url(path), headers=headers).status_code == status
    (span,) = in_trace(collector, trace_id, 1)
    assert (span.component, span.parent_id, span.name) == ("ingress", CLIENT, name)
    assert span.attributes["http.response.status_code"] == status
    wait_until(lambda: read_records(lambda r: r.get("request_id") == f"none-{status}"))
    (record,) = read_records(lambda r: r.get("request_id") == f"none-{status}")
    assert (record["trace_id"], record["span_id"]) == (trace_id, span.span_id)


def test_a_users_own_spans_hang_below_the_step(
    instance: Instance, deploy: Deploy, collector: Collector
) -> None:
    deploy(work_with_api, route="/work")
    trace_id, span_id = traceparent(ask(instance, "/work"))
    spans = in_trace(collector, trace_id, 3)
    (own,) = [span for span in spans if span.name == "tokenize"]
    assert own.parent_id == span_id
    assert own.resource["replica"]


async def test_a_batchs_call_names_all_its_traces(
    instance: Instance, deploy: Deploy, looked: str, collector: Collector
) -> None:
    batched = deploy(Batched, looked, route="/batched")
    async with httpx.AsyncClient() as http:
        answers = await asyncio.gather(
            *(http.get(instance.url("/batched"), timeout=30) for _ in range(4))
        )
    (call,) = collector.wait(lambda s: s.kind == "CLIENT" and s.resource["backend"] == batched)
    assert sorted(call.links) == sorted(traceparent(answer) for answer in answers)


DRIVER = """
import sys
import ray, serve
ray.init(address=sys.argv[1], log_to_driver=False)
client = serve.connect()
handle = client.get_handle(sys.argv[2])
print(handle.call(None).result()["trace"])
print(ray.get(handle.remote(None))["trace"], flush=True)
input()  # the span of `remote` ends a moment after its answer, in a thread of Ray's
"""


def test_a_drivers_calls_begin_traces(looked: str, collector: Collector, ray_address: str) -> None:
    model = looked
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, ray_address, model],
        env={**os.environ, **sending_to(collector)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        trace_ids = [driver.stdout.readline().strip() for _ in range(2)]
        traces = [in_trace(collector, trace_id, 2) for trace_id in trace_ids]
        driver.communicate("\n", timeout=60)
    assert driver.returncode == 0
    for spans, way in zip(traces, ("call", "remote"), strict=True):
        call, step = sorted(spans, key=lambda span: span.kind)
        assert (call.component, call.kind, call.parent_id) == ("driver", "CLIENT", "")
        assert (call.attributes["way"], call.name) == (way, f"{model}.__call__")
        assert (step.parent_id, step.resource["backend"]) == (call.span_id, model)
