"""What `tagtrail status` tells of replicas that do not answer."""

from __future__ import annotations

from typing import Any

import pytest

from serve.command.tables import print_status
from serve.config import BackendConfig, Traits
from serve.controller.goal import BackendGoal
from serve.controller.observed import Observed, Phase, ReplicaView
from serve.status import Status, describe, find_silent
from tests.unit.test_reconcile import goal_of


def status(phase: Phase = Phase.RUNNING, **facts: Any) -> Status:
    view = ReplicaView("a#1", "a", phase, 0.0, config_version=1, **facts)
    backend = BackendGoal("a", "", Traits("handler"), {}, BackendConfig(), 1)
    return Status(goal_of(backend), Observed({"a#1": view}), 7, now=100.0)


def test_a_replica_that_answers_is_not_silent() -> None:
    assert find_silent(status()) == {}
    assert find_silent(status(asked_at=96.0)) == {}
    assert describe(status(), "c")["backends"][0]["replicas"][0]["unanswered_s"] == 0


def test_a_replica_that_owes_an_answer_is_shown_with_for_how_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = status(asked_at=88.0)
    assert find_silent(late) == {
        "a#1": "replica 'a#1' of backend 'a' does not answer its health check: no sign of life "
        "from its event loop for 12 s"
    }
    described = describe(late, "c")
    assert described["backends"][0]["replicas"][0]["unanswered_s"] == 12
    print_status(described)
    assert "12 s" in capsys.readouterr().out


def test_an_unresponsive_replica_is_not_healthy_and_says_since_when() -> None:
    gone = status(Phase.UNRESPONSIVE, trouble="unresponsive since noon")
    assert find_silent(gone) == {
        "a#1": "replica 'a#1' of backend 'a' does not answer its health check"
    }
    described = describe(gone, "c")
    assert not described["healthy"]
    assert described["troubles"] == ["Replica 'a#1': unresponsive since noon"]
    assert described["backends"][0]["replicas"][0]["phase"] == "UNRESPONSIVE"
