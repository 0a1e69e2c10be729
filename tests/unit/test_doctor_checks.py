"""The doctor's checks as rows: each table ends, and its words are of what was looked at."""

from __future__ import annotations

from string import Formatter
from typing import Any

import pytest

from observability.doctor import agents, counted, entrance, scraped, shown, stores
from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.reply import Reply

TABLES: list[tuple[type, Checks[Any]]] = [
    (entrance.AnswerLook, entrance.ANSWER_CHECKS),
    (entrance.SegmentLook, entrance.SEGMENT_CHECKS),
    (agents.AgentLook, agents.CHECKS),
    (stores.StoreLook, stores.CHECKS),
    (counted.PageLook, counted.PAGE_CHECKS),
    (counted.PageLook, counted.PORT_CHECKS),
    (scraped.PrometheusLook, scraped.CHECKS),
    (shown.GrafanaLook, shown.CHECKS),
]


def test_the_first_row_that_applies_is_the_finding_in_the_looks_own_words() -> None:
    checks: Checks[Reply] = (
        Check(lambda reply: reply.is_ok, "{url} is well", outcome=Outcome.OK),
        Check(always, "{url}: {status}", "It says {{{text}}}.", "ask {url}"),
    )
    assert judge(Station.PAGE, checks, Reply("u", 200)) == Finding(
        Station.PAGE, Outcome.OK, "u is well"
    )
    # What a program says is text, braces included.
    assert judge(Station.PAGE, checks, Reply("u", 500, "{x}")) == Finding(
        Station.PAGE, Outcome.FAILED, "u: 500", "It says {{x}}.", "ask u"
    )


@pytest.mark.parametrize(("look", "checks"), TABLES)
def test_a_table_ends_with_a_row_that_always_applies(look: type, checks: Checks[Any]) -> None:
    assert [check.applies is always for check in checks] == [False] * (len(checks) - 1) + [True]


@pytest.mark.parametrize(("look", "checks"), TABLES)
def test_the_words_of_a_row_name_what_the_look_has(look: type, checks: Checks[Any]) -> None:
    for check in checks:
        for text in (check.detail, check.cause, check.step):
            names = [name for _, name, _, _ in Formatter().parse(text) if name]
            assert [n for n in names if not hasattr(look, n.partition(".")[0])] == [], text


@pytest.mark.parametrize(("look", "checks"), TABLES)
def test_a_failure_has_a_cause_and_a_next_step_and_nothing_else_has(
    look: type, checks: Checks[Any]
) -> None:
    for check in checks:
        is_failure = check.outcome is Outcome.FAILED
        assert (bool(check.cause), bool(check.step)) == (is_failure, is_failure), check.detail
