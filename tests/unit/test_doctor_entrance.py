"""The doctor's first stations: what it says of an answer, and of the segments."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from observability.doctor.entrance import (
    AnswerLook,
    Canary,
    SegmentLook,
    judge_answer,
    judge_segment,
)
from observability.doctor.facts import NodeFacts, choose_ingress
from observability.doctor.findings import Outcome
from observability.doctor.reply import REFUSED, TOO_LATE, Reply

NOBODY = Canary("canary-1")
HELLO = Canary("canary-1", "/hello")
OURS = {"x-request-id": "canary-1"}
REPLICA = {**OURS, "x-serve-backend": "b", "x-serve-replica": "b#aaaaaa"}
URL = "http://127.0.0.1:8000/x"


def test_the_ingresss_own_404_is_the_answer_to_a_path_that_nobody_sees() -> None:
    finding = judge_answer(AnswerLook(NOBODY, Reply(URL, 404, "Path /x not found.", OURS)))
    assert finding.outcome is Outcome.OK
    assert "canary-1" in finding.detail


@pytest.mark.parametrize("status", [200, 500])
def test_an_endpoints_answer_is_good_whatever_the_handler_said(status: int) -> None:
    finding = judge_answer(AnswerLook(HELLO, Reply(URL, status, "", REPLICA)))
    assert finding.outcome is Outcome.OK
    assert f"{status} of b#aaaaaa" in finding.detail


def test_an_endpoint_that_hangs_is_not_blamed_on_the_ingress() -> None:
    silent = ("replica 'b#1' of backend 'b' does not answer its health check",)
    finding = judge_answer(AnswerLook(HELLO, Reply(URL, error=TOO_LATE), silent))
    assert "'b#1' of backend 'b' does not answer its health check" in finding.cause
    assert "HAProxy" not in finding.cause
    unknown = judge_answer(AnswerLook(HELLO, Reply(URL, error=TOO_LATE)))
    assert unknown.cause.startswith("The endpoint takes that long")


@pytest.mark.parametrize(
    ("canary", "reply", "cause", "step"),
    [
        (NOBODY, Reply(URL, error=REFUSED), "does not listen", "tagtrail status"),
        (NOBODY, Reply(URL, error=TOO_LATE), "hangs", "tagtrail status"),
        (NOBODY, Reply(URL, error="no answer (X)"), "no HTTP server", "tagtrail status"),
        (NOBODY, Reply(URL, 404, "", {"server": "nginx"}), "calls itself nginx", "ss -ltnp"),
        (NOBODY, Reply(URL, 404, "", {"x-request-id": "other"}), "Another program", "ss -ltnp"),
        (NOBODY, Reply(URL, 200, "hello", OURS), "Another program", "ss -ltnp"),
        (HELLO, Reply(URL, 404, "", OURS), "No endpoint has this path", "tagtrail status"),
        (HELLO, Reply(URL, 405, "", OURS), "does not take GET", "tagtrail status"),
        (HELLO, Reply(URL, 503, "", OURS), "No replica answered", "tagtrail status"),
        (
            HELLO,
            Reply(URL, 307, "", {**OURS, "location": "/hello/"}),
            "spelt otherwise",
            "doctor --path '/hello/'",
        ),
    ],
)
def test_an_answer_that_is_not_ours_has_a_cause(
    canary: Canary, reply: Reply, cause: str, step: str
) -> None:
    finding = judge_answer(AnswerLook(canary, reply))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause
    assert step in finding.step


LOOK = SegmentLook("", "/logs/serve", 0, 5.0)


def test_a_record_in_the_segments_is_good() -> None:
    finding = judge_segment(dataclasses.replace(LOOK, count=1, waited_s=0.1))
    assert finding.outcome is Outcome.OK
    assert finding.detail == "1 record in /logs/serve, after 0.1 s"


@pytest.mark.parametrize(
    ("seen", "cause", "step"),
    [
        ({"has_access_log": False}, "access_log is off", "logging_config={'access_log': True}); -"),
        (
            {"has_access_log": False, "path": "/hello"},
            "access_log is off",
            "serve.update_backend_config(TAG, {'logging_config': {'access_log': True}})",
        ),
        ({"dropped": 3.0, "free_bytes": 2_000_000}, "3 were dropped", "df -h /logs/serve"),
        ({"free_bytes": 0}, "0 MB are free", "df -h /logs/serve"),
        ({"is_here": False, "problems": ("No dashboard.",)}, "No dashboard.", "dashboard"),
        ({"exists": False}, "session is another one", "ls -l /tmp/ray"),
        ({}, "another instance on this port", "tagtrail logs"),
    ],
)
def test_a_missing_record_has_a_cause(seen: dict[str, Any], cause: str, step: str) -> None:
    finding = judge_segment(dataclasses.replace(LOOK, **seen))
    assert finding.outcome is Outcome.FAILED
    assert cause in finding.cause
    assert step in finding.step


# Which ingress is asked.

HERE, THERE = NodeFacts("10.0.0.1", True), NodeFacts("10.0.0.2", False)
NODES = {"there": THERE, "here": HERE}


@pytest.mark.parametrize(
    ("listening", "chosen"),
    [
        ({"there": "0.0.0.0:8000", "here": "0.0.0.0:8000"}, ("here", "127.0.0.1:8000")),
        ({"there": "0.0.0.0:8000"}, ("there", "10.0.0.2:8000")),
        ({"there": "10.0.0.2:8000"}, ("there", "10.0.0.2:8000")),
        ({"there": "127.0.0.1:8000", "here": "127.0.0.1:80"}, ("here", "127.0.0.1:80")),
    ],
)
def test_the_nearest_ingress_that_can_be_reached_is_asked(
    listening: dict[str, str], chosen: tuple[str, str]
) -> None:
    assert choose_ingress(listening, NODES) == (*chosen, "")


def test_without_an_ingress_that_can_be_reached_it_says_why() -> None:
    assert "NoServer" in choose_ingress({}, NODES)[2]
    assert "127.0.0.1:8000 of 10.0.0.2" in choose_ingress({"there": "127.0.0.1:8000"}, NODES)[2]
