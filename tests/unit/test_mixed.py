"""The mixed run's own judgement: what it takes for a difference, and what it sends."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.mixed.kinds import KINDS
from tests.mixed.run import plan
from tests.mixed.seen import Seen, Want, compare, differing, table

WANT = Want("http", (200,), "e", bytes_out=4)
SEEN = Seen("GET", "id-1", "200, 4 B", (WANT,))
RECORD: dict[str, Any] = {
    "request_id": "id-1",
    "way": "http",
    "endpoint": "e",
    "status": 200,
    "bytes_out": 4,
    "component": "serve",
    "replica": "b#abcdef",
    "pid": 1,
}


def test_a_request_with_the_record_that_its_client_saw_is_no_difference() -> None:
    assert compare([SEEN], [RECORD, RECORD | {"request_id": "of another"}]) == []


@pytest.mark.parametrize(
    "records",
    [
        [],
        [RECORD, RECORD],
        [RECORD, RECORD | {"component": "ingress", "status": 502}],
        [RECORD | {"status": 500}],
        [RECORD | {"error": "client_gone"}],
        [RECORD | {"bytes_out": 5}],
        [RECORD | {"way": "call"}],
        [RECORD | {"endpoint": "other"}],
        [RECORD | {"close_code": 1000}],
    ],
    ids=str,
)
def test_anything_else_is_one_and_is_shown(records: list[dict[str, Any]]) -> None:
    (difference,) = compare([SEEN], records)
    assert (difference.kind, difference.request_id) == ("GET", "id-1")
    assert "| GET | id-1 | 200, 4 B | http e 200 4 B |" in table([difference])


def test_an_error_that_is_wanted_must_be_there() -> None:
    seen = replace(SEEN, wants=(replace(WANT, error="client_gone"),))
    assert compare([seen], [RECORD | {"error": "client_gone"}]) == []
    assert len(compare([seen], [RECORD])) == 1


def test_a_client_that_left_at_once_may_have_been_answered_or_not_but_once() -> None:
    seen = replace(SEEN, wants=(Want("http", (200, 499), "e", None),))
    gone = RECORD | {"status": 499, "error": "client_gone"}
    assert compare([seen], [RECORD]) == compare([seen], [gone]) == []
    assert len(compare([seen], [RECORD, gone])) == 1
    assert len(compare([seen], [])) == 1


def test_a_killed_process_may_have_told_of_an_answer_that_never_left() -> None:
    of_dead = RECORD | {"pid": 7}
    assert compare([SEEN], [of_dead, RECORD], frozenset({7})) == []
    assert len(compare([SEEN], [of_dead, RECORD])) == 1


def test_a_counter_is_the_number_of_its_records() -> None:
    key, other = ("counter", "e"), ("counter", "f")
    assert differing({key: 2}, {key: 2.0}) == []
    assert [d.request_id for d in differing({key: 2, other: 1}, {key: 3})] == [
        "counter e",
        "counter f",
    ]


def test_the_same_seed_sends_the_same_and_each_kind_in_proportion() -> None:
    planned = plan(5000, 1)
    assert [kind.name for kind in planned] == [kind.name for kind in plan(5000, 1)]
    assert [kind.name for kind in planned] != [kind.name for kind in plan(5000, 2)]
    counts = Counter(kind.name for kind in planned)
    total = sum(kind.weight for kind in KINDS)
    for kind in KINDS:
        assert counts[kind.name] == pytest.approx(5000 * kind.weight / total, abs=5)
