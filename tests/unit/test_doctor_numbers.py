"""The doctor on metrics pages, Prometheus and Grafana: each likely cause once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from observability.doctor.counted import (
    PageLook,
    counter_of,
    judge_page,
    judge_port,
)
from observability.doctor.findings import Outcome
from observability.doctor.reply import REFUSED, TOO_LATE, Reply
from observability.doctor.scraped import PrometheusLook, Wanted, judge_prometheus, read_values
from observability.doctor.shown import GrafanaLook, judge_grafana

COUNTER = counter_of("")


def page(value: float | None) -> Reply:
    text = "ray_nodes 1\n"
    if value is not None:
        text += f'ray_serve_num_http_requests_total{{route="unmatched",replica=""}} {value}\n'
        text += 'ray_serve_num_http_requests_total{route="/busy",replica="b#a"} 1e9\n'
    return Reply("http://127.0.0.1:8080/metrics", 200, text)


def look(before: float | None, after: float | None) -> PageLook:
    return PageLook("127.0.0.1:8080", COUNTER, page(before), page(after), 12.0)


@pytest.mark.parametrize(
    ("before", "after", "grown"),
    [(None, 1, True), (1, 2, True), (2, 2, False), (None, None, False)],
)
def test_a_count_that_grew_is_the_canarys(
    before: float | None, after: float | None, grown: bool
) -> None:
    assert look(before, after).has_grown is grown
    outcome = Outcome.OK if grown else Outcome.FAILED
    assert judge_port(look(before, after)).outcome is outcome
    assert judge_page(look(before, after)).outcome is outcome


def test_the_counter_of_an_endpoint_is_that_of_the_replica_that_answered() -> None:
    assert str(counter_of("b#aaaaaa")) == 'ray_serve_endpoint_requests_total{replica="b#aaaaaa"}'


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (PageLook("", COUNTER), "exports no metrics"),
        (
            PageLook("h:1", COUNTER, after=Reply("", error=REFUSED)),
            "does not listen: it ended",
        ),
        (PageLook("h:1", COUNTER, after=Reply("", error=TOO_LATE)), "firewall"),
        (PageLook("h:1", COUNTER, after=Reply("", 404, "?")), "Another program"),
        (look(1, 1), "metrics_report_interval_ms"),
    ],
)
def test_a_metrics_port_without_the_count_has_a_cause(seen: PageLook, cause: str) -> None:
    finding = judge_port(seen)
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause


def test_a_port_without_any_series_of_serve_says_so() -> None:
    assert "no series of Serve" in judge_port(look(None, None)).detail
    assert "has series of Serve" in judge_port(look(1, 1)).detail


def test_a_metrics_page_may_be_switched_off_or_on_another_machine() -> None:
    assert judge_page(PageLook("", COUNTER)).outcome is Outcome.ABSENT
    assert judge_page(PageLook("h:1", COUNTER, reach="elsewhere")).outcome is Outcome.ABSENT


def test_a_metrics_page_that_is_gone_or_stands_still_has_a_cause() -> None:
    gone = judge_page(PageLook("h:1", COUNTER, after=Reply("", error=REFUSED)))
    assert "actor does not answer" in gone.cause
    assert "too busy" in judge_page(look(1, 1)).cause


# Prometheus.

READY = Reply("http://127.0.0.1:9090/-/ready", 200, "Prometheus Server is Ready.\n")
WANTED = (
    Wanted("ray", "10.0.0.1:8080", "/tmp/ray/prom_metrics_service_discovery.json", True),
    Wanted("tagtrail", "127.0.0.1:9101", "/tmp/ray/session_latest/tagtrail_metrics_*.json"),
)


def targets(*found: tuple[str, str, str]) -> Reply:
    active = [
        {"scrapeUrl": f"http://{address}/metrics", "health": health, "lastError": error}
        for address, health, error in found
    ]
    return Reply("", 200, json.dumps({"data": {"activeTargets": active}}))


BOTH = targets(("10.0.0.1:8080", "up", ""), ("127.0.0.1:9101", "up", ""))
SCRAPED = PrometheusLook(READY, WANTED, BOTH, grown={"ray": 1.0}, waited_s=11.0)


def test_a_prometheus_that_counted_the_canary_is_good() -> None:
    finding = judge_prometheus(SCRAPED)
    assert finding.outcome is Outcome.OK
    assert finding.detail == "it scrapes ray, tagtrail; ray counted the canary, after 11.0 s"


def test_one_of_the_two_ways_is_enough_and_the_other_is_told() -> None:
    only = targets(("127.0.0.1:9101", "up", ""))
    seen = dataclasses.replace(SCRAPED, targets=only, grown={"tagtrail": 1.0})
    finding = judge_prometheus(seen)
    assert finding.outcome is Outcome.OK
    assert "ray is not scraped (rules and dashboards ask for job ray)" in finding.detail


@pytest.mark.parametrize("ready", [Reply("", error=REFUSED), Reply("", 200, "<html>Cockpit")])
def test_a_prometheus_that_nobody_named_may_be_missing(ready: Reply) -> None:
    assert judge_prometheus(PrometheusLook(ready)).outcome is Outcome.ABSENT


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"ready": Reply("", error=REFUSED), "is_named": True}, "does not run"),
        ({"ready": Reply("", 503, "Service Unavailable")}, "It is starting"),
        ({"grown": {"ray": 0.0}}, "scrape_interval"),
        (
            {"targets": targets(("10.0.0.1:8080", "down", "connection refused"))},
            "does not reach the page of the job ray: connection refused",
        ),
        (
            {"targets": targets(("10.9.9.9:8080", "up", "")), "config": "files: [/else/where]"},
            "does not look where this instance's addresses are written: "
            "/tmp/ray/prom_metrics_service_discovery.json",
        ),
        ({"targets": targets(), "config": f"files: [{WANTED[0].file}]"}, "has not read the files"),
    ],
)
def test_a_prometheus_without_the_count_has_a_cause(changed: dict[str, Any], cause: str) -> None:
    finding = judge_prometheus(dataclasses.replace(SCRAPED, **changed))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause


def test_without_a_page_to_scrape_prometheus_is_not_looked_at() -> None:
    finding = judge_prometheus(PrometheusLook(READY))
    assert finding.outcome is Outcome.SKIPPED
    assert "no metrics page" in finding.detail


def test_a_missing_file_of_addresses_is_named() -> None:
    gone = (dataclasses.replace(WANTED[0], exists=False),)
    seen = dataclasses.replace(SCRAPED, wanted=gone, targets=targets(), config=gone[0].file)
    assert f"{gone[0].file} is not there" in judge_prometheus(seen).cause


def test_values_of_a_query_are_read_by_job() -> None:
    result = [{"metric": {"job": "ray"}, "value": [1, "2"]}, {"metric": {}, "value": [1, "3"]}]
    assert read_values(Reply("", 200, json.dumps({"data": {"result": result}}))) == {
        "ray": 2.0,
        "": 3.0,
    }
    assert read_values(Reply("", error=REFUSED)) == {}


# Grafana.

HEALTHY = Reply("", 200, '{"database": "ok", "version": "12.1.0"}')
ANSWERS = Reply("", 200, '{"status": "OK", "message": "Successfully queried"}')
SHOWN = GrafanaLook(HEALTHY, {"tagtrail-prometheus": ANSWERS}, has_credentials=True)


def test_a_grafana_whose_data_sources_answer_is_good() -> None:
    finding = judge_grafana(SHOWN)
    assert finding.outcome is Outcome.OK
    assert "tagtrail-prometheus answer through it" in finding.detail


def test_without_a_token_data_sources_are_not_asked_and_that_is_said() -> None:
    finding = judge_grafana(GrafanaLook(HEALTHY))
    assert finding.outcome is Outcome.OK
    assert "not asked" in finding.detail and "GRAFANA_TOKEN" in finding.detail


@pytest.mark.parametrize("health", [Reply("", error=REFUSED), Reply("", 200, "<html>my app")])
def test_a_grafana_that_nobody_named_may_be_missing(health: Reply) -> None:
    assert judge_grafana(GrafanaLook(health)).outcome is Outcome.ABSENT


@pytest.mark.parametrize(
    ("changed", "cause", "step"),
    [
        ({"health": Reply("", error=REFUSED), "is_named": True}, "does not run", "--grafana"),
        ({"health": Reply("", 503, '{"database": "failing"}')}, "database is away", "again"),
        ({"sources": {"u": Reply("", 401)}}, "refuses the token", "GRAFANA_TOKEN"),
        ({"sources": {"u": Reply("", 404)}}, "was not told", "tagtrail grafana push"),
        (
            {"sources": {"u": Reply("", 400, '{"status": "ERROR", "message": "no such host"}')}},
            "does not reach the program behind u: no such host",
            "--prometheus URL",
        ),
    ],
)
def test_a_grafana_that_shows_nothing_has_a_cause(
    changed: dict[str, Any], cause: str, step: str
) -> None:
    finding = judge_grafana(dataclasses.replace(SHOWN, **changed))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause
    assert step in finding.step
