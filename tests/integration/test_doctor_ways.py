"""The doctor against HTTP servers of its own, without an instance: strangers, Loki and Grafana."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from observability.doctor.doctor import Doctor
from observability.doctor.entrance import Canary
from observability.doctor.facts import Addresses, InstanceFacts, NodeFacts
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.probes import Probes, check_url
from observability.doctor.reply import TOO_LATE
from observability.grafana.records import LOKI_UID, PROMETHEUS_UID
from observability.trail.segments import SegmentFolder
from tests.conftest import free_port
from tests.integration.grafana_api import TOKEN, run_grafana_api
from tests.integration.http_server import serve_http
from tests.integration.loki_api import LokiApi, run_loki_api

CANARY = Canary("canary-1")
FOUND = {"request_id": CANARY.request_id, "component": "ingress", "kind": "access"}


@contextmanager
def run_server(answers: Any) -> Iterator[str]:
    """An HTTP server that answers a GET of a path with `answers(path, headers)`; HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = answers(self.path, self.headers)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

    with serve_http(Handler) as address:
        yield address


def answer_as_ingress(path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
    return 404, "Path not found.", {"X-Request-ID": headers["X-Request-ID"]}


def examine(
    ingress: str, folder: Path, *, timeout_s: float = 1.0, auth: str | None = None, **named: str
) -> dict[Station, Finding]:
    facts = InstanceFacts(ingress, "", "n", {"n": NodeFacts("127.0.0.1", True)})
    probes = Probes(auth)
    try:
        doctor = Doctor(
            facts,
            Addresses(**named),
            CANARY,
            SegmentFolder(folder),
            [],
            probes,
            has_credentials=auth is not None,
            timeout_s=timeout_s,
            waiting=lambda station, seconds: None,
        )
        return {finding.station: finding for finding in doctor.examine()}
    finally:
        probes.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Segments in which the canary's record is."""
    line = json.dumps({"time": "2026-01-01T00:00:00.000000000Z", **FOUND})
    (tmp_path / "ingress_1.000001.log").write_text(f"{line}\n")
    return tmp_path


def test_a_stranger_on_the_ingresss_port_is_told(tmp_path: Path) -> None:
    with run_server(lambda path, headers: (404, "no such page", {})) as address:
        findings = examine(address, tmp_path)
    answer = findings[Station.ANSWER]
    assert answer.outcome is Outcome.FAILED
    assert "Another program answers on this port (it calls itself BaseHTTP" in answer.cause
    for station in (Station.SEGMENT, Station.STORE, Station.PROMETHEUS):
        assert findings[station].outcome is Outcome.SKIPPED


def test_an_ingress_that_does_not_listen_is_told(tmp_path: Path) -> None:
    answer = examine(f"127.0.0.1:{free_port()}", tmp_path)[Station.ANSWER]
    assert answer.cause == "The ingress does not listen."
    assert "tagtrail status" in answer.step


def test_the_canarys_path_is_one_that_an_ingress_answers_by_itself(recorded: Path) -> None:
    paths = []

    def answer(path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        paths.append(path)
        return answer_as_ingress(path, headers)

    with run_server(answer) as address:
        assert examine(address, recorded)[Station.SEGMENT].outcome is Outcome.OK
    assert paths == ["/-/tagtrail-canary%00"]


def keep(loki: LokiApi) -> None:
    loki.keep(time.time_ns(), json.dumps(FOUND))


def test_the_record_is_found_in_loki_and_its_data_source_is_asked(recorded: Path) -> None:
    with run_server(answer_as_ingress) as ingress, run_loki_api() as loki:
        keep(loki)
        with run_grafana_api("/grafana") as grafana:
            grafana.sources |= {PROMETHEUS_UID: {}, LOKI_UID: {}}
            named = {"loki": loki.url, "grafana": grafana.url}
            findings = examine(ingress, recorded, auth=TOKEN, **named)
            assert "Loki has the record" in findings[Station.STORE].detail
            assert findings[Station.GRAFANA].outcome is Outcome.OK
            assert f"{LOKI_UID} answer through it" in findings[Station.GRAFANA].detail

            grafana.unwell[LOKI_UID] = "dial tcp: connection refused"
            finding = examine(ingress, recorded, auth=TOKEN, **named)[Station.GRAFANA]
            assert "does not reach the program behind tagtrail-loki: dial tcp" in finding.cause

            del grafana.sources[LOKI_UID]
            finding = examine(ingress, recorded, auth=TOKEN, **named)[Station.GRAFANA]
            assert finding.step == "tagtrail grafana push"

            finding = examine(ingress, recorded, auth="wrong", **named)[Station.GRAFANA]
            assert "refuses the token" in finding.cause

            finding = examine(ingress, recorded, **named)[Station.GRAFANA]
            assert (finding.outcome, "not asked" in finding.detail) == (Outcome.OK, True)


def test_a_loki_without_the_record_or_not_ready_is_told(recorded: Path) -> None:
    with run_server(answer_as_ingress) as ingress, run_loki_api() as loki:
        finding = examine(ingress, recorded, loki=loki.url)[Station.STORE]
        assert finding.detail == "Loki has no such record after 1 s"

        keep(loki)
        loki.is_ready = False
        finding = examine(ingress, recorded, loki=loki.url)[Station.STORE]
        assert "Ingester not ready" in finding.detail


def test_a_token_is_not_given_to_what_is_no_grafana(recorded: Path) -> None:
    seen = []

    def answer(path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        seen.append(headers.get("Authorization"))
        return 200, "<html>my application", {}

    with run_server(answer_as_ingress) as ingress, run_server(answer) as stranger:
        finding = examine(ingress, recorded, auth=TOKEN, grafana=f"http://{stranger}")
    assert finding[Station.GRAFANA].outcome is Outcome.FAILED
    assert seen == [None]


def test_an_answer_that_does_not_come_is_not_waited_for_longer_than_the_limit() -> None:
    is_over = threading.Event()

    def hang(path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        is_over.wait(10)
        return 200, "", {}

    probes = Probes()
    with run_server(hang) as address:
        reply = probes.ask(f"http://{address}/", limit_s=0.2)
        is_over.set()
    probes.close()
    assert reply.error == TOO_LATE


@pytest.mark.parametrize("text", ["localhost:3100", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Expected http://HOST:PORT"):
        check_url(text)
