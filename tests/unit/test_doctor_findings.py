"""The doctor's report: where it stopped, in lines and as data."""

from __future__ import annotations

import click

from observability.doctor.findings import (
    Station,
    absent,
    bad,
    conclude,
    first_failure,
    good,
    skipped,
    to_report,
)
from observability.doctor.show import show_finding

ANSWER = good(Station.ANSWER, "404")
STORE = bad(Station.STORE, "no such record", "No agent runs.", "Start one.")
GRAFANA = bad(Station.GRAFANA, "silent", "It does not run.", "Start it.")


def test_the_first_failure_is_where_it_stopped_and_the_others_are_named() -> None:
    assert first_failure([ANSWER, STORE, GRAFANA]) is STORE
    assert conclude([ANSWER, STORE, GRAFANA]) == (
        "It stopped at the log store. No agent runs. Next: Start one. Not well either: grafana."
    )


def test_an_instance_that_is_not_well_does_not_stop_the_canary() -> None:
    instance = bad(Station.INSTANCE, "x", "The instance is not at its goal: x.", "tagtrail status")
    assert conclude([instance, ANSWER]) == (
        "The instance is not at its goal: x. Next: tagtrail status"
    )


def test_without_a_failure_it_says_how_far_it_came_and_what_is_not_there() -> None:
    findings = [ANSWER, absent(Station.STORE, "none"), skipped(Station.GRAFANA, "why")]
    assert conclude(findings) == "All is well at: answer. Not there: log store, grafana."


def test_the_report_as_data_has_every_station() -> None:
    report = to_report([ANSWER, STORE], "canary-1")
    assert (report["healthy"], report["stopped_at"]) == (False, "log store")
    assert report["canary"] == "canary-1"
    assert report["stations"][1] == {
        "station": "log store",
        "outcome": "failed",
        "detail": "no such record",
        "cause": "No agent runs.",
        "next": "Start one.",
    }
    assert to_report([ANSWER], "canary-1")["stopped_at"] is None


def test_a_failure_has_its_cause_and_the_next_step_below_it() -> None:
    lines = click.unstyle(show_finding(STORE)).splitlines()
    assert lines[0] == "✗ log store     no such record"
    assert [line.split()[0] for line in lines[1:]] == ["likely", "next"]


def test_what_a_stranger_answers_does_not_steer_the_terminal() -> None:
    line = show_finding(good(Station.ANSWER, "\x1b[2J\nforged"))
    assert "\x1b[2J" not in line
    assert len(line.splitlines()) == 1
