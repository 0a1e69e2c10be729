"""The doctor on log agents and log stores: each likely cause once."""

from __future__ import annotations

import dataclasses
import json

import pytest

from observability.doctor.agents import (
    ALLOY,
    PROMTAIL,
    VLAGENT,
    Agent,
    AgentLook,
    Counts,
    count,
    judge_agent,
    read_folders,
    recognise,
)
from observability.doctor.findings import Finding, Outcome, Station, absent
from observability.doctor.reply import REFUSED, Reply
from observability.doctor.stores import (
    Sent,
    Store,
    StoreLook,
    count_records,
    judge_store,
    judge_stores,
)

# Promtail's and Alloy's as their documentation has them; vlagent's was read off a running one.
PAGES = {
    PROMTAIL: """promtail_build_info{version="3.6.0"} 1
promtail_read_lines_total{path="/tmp/ray/s/logs/serve/a.000001.log"} 7
promtail_read_lines_total{path="/var/log/x.log"} 3
promtail_sent_entries_total{host="loki:3100"} 6
promtail_dropped_entries_total{host="loki:3100",reason="rate_limited",tenant=""} 2
promtail_request_duration_seconds_count{host="loki:3100",status_code="204"} 5
promtail_request_duration_seconds_count{host="loki:3100",status_code="429"} 3
promtail_request_duration_seconds_count{host="loki:3100",status_code="500"} 4
promtail_request_duration_seconds_count{host="loki:3100",status_code="-1"} 1
""",
    ALLOY: """alloy_build_info{version="1.17.0"} 1
loki_source_file_read_lines_total{component_id="c",path="/tmp/ray/s/logs/serve/a.000001.log"} 7
loki_source_file_read_lines_total{component_id="c",path="/var/log/x.log"} 3
loki_write_sent_entries_total{component_id="w",host="loki:3100"} 6
loki_write_dropped_entries_total{component_id="w",host="loki:3100",reason="rate_limited"} 2
loki_write_request_duration_seconds_count{component_id="w",status_code="204"} 5
loki_write_request_duration_seconds_count{component_id="w",status_code="429"} 3
loki_write_request_duration_seconds_count{component_id="w",status_code="500"} 4
loki_write_request_duration_seconds_count{component_id="w",status_code="-1"} 1
""",
    VLAGENT: """vl_rows_ingested_total{type="file_logs"} 10
vl_rows_ingested_total{type="kubernetes_logs"} 0
vlagent_remotewrite_blocks_sent_total{url="1:secret-url"} 6
vlagent_remotewrite_errors_total{url="1:secret-url"} 5
vlagent_remotewrite_packets_dropped_total{url="1:secret-url"} 2
vlagent_remotewrite_pending_data_bytes{path="/tmp/q", url="1:secret-url"} 0
vlagent_remotewrite_requests_total{url="1:secret-url", status_code="2XX"} 4
vlagent_remotewrite_requests_total{url="1:secret-url", status_code="400"} 3
""",
}


@pytest.mark.parametrize("agent", PAGES, ids=lambda agent: agent.name)
def test_an_agent_is_known_by_its_metrics_and_they_are_counted(agent: Agent) -> None:
    assert recognise(PAGES[agent]) is agent
    assert count(agent, PAGES[agent]) == Counts(10, 6, 2, 3, 5, agent.unit)


def test_what_is_no_agent_is_not_taken_for_one() -> None:
    assert recognise("# HELP promtail_x about\ngo_goroutines 3\nnot_alloy_x 1\n") is None


def test_folders_are_those_of_the_files_that_an_agent_reads() -> None:
    assert read_folders(PROMTAIL, PAGES[PROMTAIL]) == ("/tmp/ray/s/logs/serve", "/var/log")
    assert read_folders(VLAGENT, PAGES[VLAGENT]) == ()


def test_growth_of_an_agent_that_started_anew_is_what_it_has_counted() -> None:
    assert Counts(5, 4).since(Counts(3, 3)) == Counts(2, 1)
    assert Counts(2, 1).since(Counts(30, 30)) == Counts(2, 1)


PAGE = Reply("http://127.0.0.1:9080/metrics", 200, PAGES[PROMTAIL])


def test_an_agent_that_is_ready_tells_its_numbers() -> None:
    finding = judge_agent(AgentLook(PAGE, PROMTAIL, Reply("", 200, "Ready")))
    assert finding.outcome is Outcome.OK
    assert "Promtail is ready; read 10 lines, sent 6" in finding.detail


def test_no_agent_is_no_failure_unless_it_was_named() -> None:
    assert judge_agent(None).outcome is Outcome.ABSENT
    named = judge_agent(AgentLook(Reply("http://x", error=REFUSED), is_named=True))
    assert (named.outcome, named.cause) == (Outcome.FAILED, "The agent does not run.")


def test_an_agent_that_is_not_ready_or_not_known_is_told() -> None:
    unready = judge_agent(AgentLook(PAGE, PROMTAIL, Reply("", 500, "Not ready: no targets")))
    assert "not ready" in unready.cause and "no targets" in unready.detail
    unknown = judge_agent(AgentLook(Reply("http://x", 200, "go_x 1"), is_named=True))
    assert "no agent that is known" in unknown.cause


# Stores.

READY = Reply("http://127.0.0.1:3100/ready", 200, "ready\n")
EMPTY = Reply("http://127.0.0.1:3100", 200, json.dumps({"data": {"result": []}}))
MISSING = StoreLook(Store.LOKI, READY, EMPTY, 0, 30.0)
SENT = Sent("Promtail", True, Counts(), ("/a/serve",), True, "/a/serve")


def test_records_are_counted_in_the_answers_of_both_stores() -> None:
    values = [["1", "{}"], ["2", "{}"]]
    loki = {"status": "success", "data": {"result": [{"stream": {}, "values": values}]}}
    assert count_records(Store.LOKI, Reply("", 200, json.dumps(loki))) == 2
    assert count_records(Store.VICTORIA_LOGS, Reply("", 200, '{"_msg":"a"}\n{"_msg":"b"}\n')) == 2
    assert count_records(Store.VICTORIA_LOGS, Reply("", 200, "")) == 0
    assert count_records(Store.LOKI, Reply("", 400, "parse error")) == 0


def test_a_store_with_the_record_is_good() -> None:
    finding = judge_store(dataclasses.replace(MISSING, count=1, waited_s=2.1))
    assert (finding.outcome, finding.detail) == (Outcome.OK, "Loki has the record, after 2.1 s")


@pytest.mark.parametrize(
    "health",
    [Reply("", error=REFUSED), Reply("", 200, "<html>a web page"), Reply("", 404, "not found")],
)
def test_a_store_that_nobody_named_may_be_missing(health: Reply) -> None:
    assert judge_store(StoreLook(Store.LOKI, health)).outcome is Outcome.ABSENT


@pytest.mark.parametrize(
    ("look", "cause"),
    [
        (StoreLook(Store.LOKI, Reply("", error=REFUSED), is_named=True), "Loki does not run"),
        (StoreLook(Store.LOKI, Reply("", 503, "Ingester not ready")), "not ready"),
        (StoreLook(Store.LOKI, Reply("", 404, "?"), is_named=True), "another program"),
        (
            dataclasses.replace(MISSING, found=Reply("", 401, "no org id")),
            "refuses the question",
        ),
    ],
)
def test_a_store_that_can_not_be_asked_has_a_cause(look: StoreLook, cause: str) -> None:
    finding = judge_store(dataclasses.replace(look, sent=SENT))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (None, "No log agent brings records there: none answers on the ports 12345, 9080, 9429"),
        (dataclasses.replace(SENT, is_ready=False), "Promtail is not ready"),
        (
            dataclasses.replace(SENT, folders=("/b/serve",), reads_segments=False),
            "reads other folders: /b/serve. The segments are in /a/serve",
        ),
        (
            dataclasses.replace(SENT, grown=Counts(read=1, dropped=1, refused=2)),
            "Loki refuses what Promtail sends (4xx)",
        ),
        (
            dataclasses.replace(SENT, grown=Counts(read=1, failed=4)),
            "Promtail does not reach its store",
        ),
        (dataclasses.replace(SENT, grown=Counts(read=1, dropped=1)), "gave records up"),
        (SENT, "Promtail has read nothing"),
        (dataclasses.replace(SENT, grown=Counts(read=1, sent=1)), "sends to another store"),
        (dataclasses.replace(SENT, grown=Counts(read=1)), "has not sent it yet"),
    ],
)
def test_what_the_agent_did_tells_why_the_record_is_missing(sent: Sent | None, cause: str) -> None:
    finding = judge_store(dataclasses.replace(MISSING, sent=sent))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause
    assert finding.step


def test_the_numbers_of_the_agent_are_in_the_cause() -> None:
    sent = dataclasses.replace(SENT, grown=Counts(read=7, sent=0, dropped=5, refused=6))
    text = "read 7 lines, sent 0, gave up 5; requests refused 6, failed 0"
    assert text in judge_store(dataclasses.replace(MISSING, sent=sent)).cause


def test_of_two_kinds_of_stores_those_that_are_there_are_told() -> None:
    gone = [absent(Station.STORE, "no Loki"), absent(Station.STORE, "no VictoriaLogs")]
    found = Finding(Station.STORE, Outcome.OK, "VictoriaLogs has the record")
    assert judge_stores([gone[0], found]) == [found]
    (neither,) = judge_stores(gone)
    assert neither.detail == "no Loki on :3100 and no VictoriaLogs on :9428"
