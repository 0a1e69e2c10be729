"""The command `tagtrail doctor` before it reaches a cluster: usage, the instance, the waiting."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from observability.doctor.findings import Outcome, Station
from serve.command.cli import cli
from serve.command.doctor import _judge_instance, _Progress


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--path", "hello"], "begins with '/'"),
        (["--loki", "localhost:3100"], "Expected http://HOST:PORT"),
        (["--grafana-user", "admin"], "expected NAME:PASSWORD"),
        (["--timeout", "0"], "0.0 is not in the range"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(options: list[str], expected: str) -> None:
    result = CliRunner().invoke(cli, ["doctor", *options])
    assert result.exit_code == 2
    assert expected in result.output


def described(**changed: Any) -> dict[str, Any]:
    backend = {"tag": "b", "healthy": True, "running": 2, "goal": 2, "last_error": None}
    ingress = {"node_id": "0123456789", "address": "127.0.0.1:8000", "error": ""}
    return {"healthy": True, "endpoints": [{}], "backends": [backend], "ingresses": [ingress]} | (
        {"troubles": []} | changed
    )


def test_a_healthy_instance_is_good() -> None:
    finding = _judge_instance(described(), {})
    assert finding.outcome is Outcome.OK
    assert finding.detail == "healthy; endpoints: 1, backends: 1, replicas: 2"


def test_what_is_not_at_its_goal_is_named_with_its_error() -> None:
    broken = {"tag": "b", "healthy": False, "running": 1, "goal": 2, "last_error": "x\nValueError"}
    deaf = {"node_id": "0123456789", "address": "", "error": "port 8000 is taken"}
    finding = _judge_instance(described(healthy=False, backends=[broken], ingresses=[deaf]), {})
    assert finding.outcome is Outcome.FAILED
    assert "ingress on node 01234567: port 8000 is taken" in finding.cause
    assert finding.detail.endswith("backend b: 1 of 2 replicas run; ValueError")
    assert finding.step == "tagtrail status"


def test_a_replica_that_does_not_answer_its_health_check_is_named_first() -> None:
    clause = "replica 'b#1' of backend 'b' does not answer"
    finding = _judge_instance(described(), {"b#1": clause})
    assert finding.outcome is Outcome.FAILED
    assert clause in finding.cause
    assert "tagtrail logs --replica b#1" in finding.step


def test_what_fails_in_a_process_that_goes_on_is_told() -> None:
    trouble = "Controller: its loop is failing"
    finding = _judge_instance(described(healthy=False, troubles=[trouble]), {})
    assert finding.outcome is Outcome.FAILED
    assert trouble in finding.cause


def test_what_is_waited_for_is_one_line_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    progress = _Progress(is_on=True)
    progress.show(Station.STORE, 3.2)
    assert capsys.readouterr().err.endswith("… log store 3 s")
    progress.clear()
    progress.clear()
    assert capsys.readouterr().err == "\r"  # click strips the rest where there is no terminal


def test_where_nobody_looks_nothing_is_said_of_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    progress = _Progress(is_on=False)
    progress.show(Station.STORE, 3.2)
    progress.clear()
    assert capsys.readouterr().err == ""
