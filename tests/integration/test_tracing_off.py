"""Without traces, with a collector that is away, with a sampler: requests are served as ever."""

from __future__ import annotations

import socket
import sys
from typing import Any

import httpx
import pytest

import serve
from tests.conftest import free_port
from tests.integration.collector import run_collector
from tests.integration.processes import wait_until
from tests.integration.records import read_records
from tests.integration.series import page, total
from tests.integration.traced import QUICKLY, run_instance

PATIENT = {**QUICKLY, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
"""An exporter that tries for so long that who waited for it would not see the test's end."""

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "k=v"}


def look(request: Any) -> dict[str, Any]:
    return {
        "headers": serve.get_request_context().trace_headers,
        "modules": [name for name in sys.modules if name.endswith("instrument.tracer")],
    }


async def ask_model(request: Any) -> Any:
    return await serve.get_handle("look", sync=False).call(None)


def bring_up(*functions: Any) -> None:
    for function in functions:
        name = function.__name__
        serve.create_backend(name, function, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint(name, backend=name, route=f"/{name}")


def access_of(request_id: str) -> list[dict[str, Any]]:
    return read_records(lambda r: r.get("request_id") == request_id and r["kind"] == "access")


@pytest.mark.usefixtures("ray_cluster")
def test_off_a_clients_trace_is_handed_on_and_recorded_and_nothing_is_imported() -> None:
    with run_instance({}) as instance:
        bring_up(look, ask_model)
        headers = {**PARENT, "X-Request-ID": "untraced-1"}
        response = httpx.get(instance.url("/ask_model"), headers=headers, timeout=30)
        assert response.json() == {"headers": PARENT, "modules": []}
        assert response.headers["traceparent"] == PARENT["traceparent"]
        assert {record["trace_id"] for record in access_of("untraced-1")} == {TRACE}
        without = httpx.get(instance.url("/look"), timeout=30)
        assert without.json()["headers"] == {}
        assert "traceparent" not in without.headers


@pytest.mark.usefixtures("ray_cluster")
def test_a_collector_that_is_away_costs_spans_and_one_line() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    variables = {**PATIENT, "OTEL_EXPORTER_OTLP_ENDPOINT": nowhere, "OTEL_BSP_MAX_QUEUE_SIZE": "8"}
    with run_instance(variables) as instance:
        bring_up(look)
        for _ in range(50):
            response = instance.http.get("/look")
            assert response.status_code == 200
            assert response.headers["traceparent"]
        replica = response.headers["x-serve-replica"]
        wait_until(lambda: total(page(), "ray_serve_spans_dropped_total", replica=replica) > 0)
        complaints = read_records(
            lambda r: r.get("replica") == replica and "Spans are dropped" in r.get("message", "")
        )
        assert len(complaints) == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_collector_that_never_answers_delays_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with run_instance({**PATIENT, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}"}) as i:
            bring_up(look)
            for _ in range(50):
                assert i.http.get("/look").status_code == 200


@pytest.mark.usefixtures("ray_cluster")
def test_an_exporter_that_is_not_installed_is_told_and_traces_stay_off() -> None:
    with run_instance({"OTEL_TRACES_EXPORTER": "carrier-pigeon"}) as instance:
        bring_up(look)
        response = instance.http.get("/look", headers=PARENT)
        assert response.json()["headers"] == PARENT
        replica = response.headers["x-serve-replica"]
        (complaint,) = read_records(
            lambda r: r.get("replica") == replica and "stay off" in r.get("message", "")
        )
        assert "no exporter 'carrier-pigeon' is installed" in complaint["message"]
        assert "tagtrail[tracing]" in complaint["message"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_sampler_takes_its_share_and_follows_the_client() -> None:
    with run_collector() as collector:
        variables = {
            **QUICKLY,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        }
        with run_instance(variables) as instance:
            bring_up(look)
            assert instance.http.get("/look").headers["traceparent"].endswith("-00")
            instance.http.get("/look", headers=PARENT)
            collector.wait(lambda span: span.trace_id == TRACE, 2)
        assert {span.trace_id for span in collector.spans} == {TRACE}


@pytest.mark.usefixtures("ray_cluster")
def test_what_waits_is_sent_when_the_instance_ends() -> None:
    with run_collector() as collector:
        with run_instance({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}) as instance:
            bring_up(look, ask_model)
            for _ in range(5):
                assert instance.http.get("/ask_model").status_code == 200
            assert instance.http.get("/no/such").status_code == 404
        # The ingress's and the replica's of each, the call and the model's; and the ingress's own.
        assert len(collector.spans) == 5 * 4 + 1
