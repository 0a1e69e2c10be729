"""How long a call waited and ran, told in its record, whatever the wall clock does meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from observability.instrument.context import RequestContext
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from observability.instrument.waits import Waits
from serve.errors import QueueTimeoutError
from serve.replica.metrics import ReplicaMetrics
from serve.replica.trail import ReplicaTrail
from serve.replica.visit import Visit, under_way

HOUR_S = 3600.0


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs `during` in a visit of a call sent `ago_s` before; its record."""

    def run(during: Callable[[Visit], None], ago_s: float | None = None) -> dict[str, Any]:
        writer = SegmentWriter(str(tmp_path), "replica_b#abcdef", Retention())
        trail = ReplicaTrail(
            writer, {"component": "serve"}, ReplicaMetrics("b", "b#abcdef"), LoggingConfig()
        )
        sent_us = 0 if ago_s is None else int((time.time() - ago_s) * 1e6)
        context = RequestContext("id", "e")
        visit = Visit(trail.end, context, "call", "m", sent_us=sent_us, status=200)
        during(visit)
        visit.end()
        writer.close()
        (path,) = tmp_path.glob("*.log")
        record: dict[str, Any] = json.loads(path.read_bytes())
        return record

    return run


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_is_set_while_a_call_runs_changes_no_duration(
    told: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    real = time.time

    def during(visit: Visit) -> None:
        visit.begin()
        monkeypatch.setattr(time, "time", lambda: real() + step_s)

    record = told(during, ago_s=5.0)
    assert 0 <= record["processing_ms"] < HOUR_S * 1000
    assert 5000 <= record["queue_ms"] < HOUR_S * 1000


def test_a_call_whose_turn_never_came_has_waited_and_not_run(
    told: Callable[..., dict[str, Any]],
) -> None:
    record = told(lambda visit: visit.fail(QueueTimeoutError("full")), ago_s=5.0)
    assert (record["status"], record["error"]) == (503, "queue_timeout")
    assert record["processing_ms"] == 0
    assert record["queue_ms"] >= 5000


def test_a_timeout_of_the_queue_that_the_handler_raised_is_its_own(
    told: Callable[..., dict[str, Any]],
) -> None:
    def during(visit: Visit) -> None:
        visit.begin()
        visit.fail(QueueTimeoutError("of another backend"))

    assert told(during)["status"] == 500


def test_a_visit_is_told_once(told: Callable[..., dict[str, Any]]) -> None:
    def during(visit: Visit) -> None:
        visit.begin()
        visit.end()
        assert visit.is_ended

    assert told(during)["status"] == 200  # the end after that left no second line


def test_a_caller_from_the_future_has_waited_for_nothing(
    told: Callable[..., dict[str, Any]],
) -> None:
    record = told(Visit.begin, ago_s=-HOUR_S)
    assert 0 <= record["queue_ms"] < 5000


def test_a_visit_is_under_way_until_it_ends_or_is_withdrawn() -> None:
    for end in (Visit.end, Visit.withdraw):
        visit = Visit(lambda _: None, RequestContext("id"), "call", "m")
        assert visit in under_way
        end(visit)
        assert visit not in under_way


def test_what_a_visit_is_at_and_its_times_so_far_are_told_without_ending_it() -> None:
    ended: list[Visit] = []
    context = RequestContext("id")
    visit = Visit(ended.append, context, "call", "m")
    seen = [visit.stage]
    visit.begin()
    context.waits = waits = Waits()
    for for_batch in (False, True):
        waits.begin(for_batch=for_batch)
        seen.append(visit.stage)
        so_far = visit.as_if_ended()
        assert so_far.thread_s + so_far.batch_s > 0
        waits.end()
    seen.append(visit.stage)
    visit.begin_sending()
    seen.append(visit.stage)
    assert seen == ["gate", "thread", "batch", "run", "send"]
    so_far = visit.as_if_ended()
    assert so_far.send_s > 0
    assert (ended, visit.is_ended, visit.send_s) == ([], False, 0.0)
    visit.end()
    assert ended == [visit]
    assert visit.processing_s >= so_far.processing_s
