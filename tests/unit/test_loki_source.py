"""Following a Loki: what comes is told in order, what goes wrong once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from observability.loki.client import LokiClient, LokiError
from observability.loki.pages import Entry
from observability.loki.source import POLL_S, LokiSource
from observability.trail.query import Query
from observability.trail.source import Fresh

BEGIN = 1_795_399_681_000_000_000
SECOND = 10**9


def entry(second: int) -> Entry:
    time = f"2026-11-23T02:{8 + (second + 1) // 60:02d}:{(second + 1) % 60:02d}.000000000Z"
    return (BEGIN + second * SECOND, json.dumps({"time": time, "message": f"m{second}"}))


class Client(LokiClient):
    """Answers what it is told to, one after the other; keeps what it was asked."""

    def __init__(self, *answers: list[Entry] | LokiError) -> None:
        super().__init__("http://loki:3100")
        self.answers = list(answers)
        self.asked: list[tuple[int, int]] = []

    def entries(self, logql: str, start_ns: int, end_ns: int, **options: Any) -> Iterator[Entry]:
        self.asked.append((start_ns, end_ns))
        answer = self.answers.pop(0)
        if isinstance(answer, LokiError):
            raise answer
        return iter(answer)


def follow(client: Client, query: Query, count: int) -> list[Fresh]:
    """So many looks, a second from one to the next."""
    waits: list[float] = []
    source = LokiSource(client, lambda: BEGIN + len(waits) * SECOND, waits.append)
    found = list(islice(source.follow(query), count))
    assert set(waits) <= {POLL_S}
    return found


def messages(looks: list[Fresh]) -> list[list[str]]:
    return [[record["message"] for record in look.records] for look in looks]


def test_each_record_is_told_once_and_a_late_one_too() -> None:
    client = Client([entry(1)], [entry(1), entry(3)], [entry(1), entry(2), entry(3)])

    assert messages(follow(client, Query(), 3)) == [["m1"], ["m3"], ["m2"]]
    assert [start for start, _ in client.asked] == [BEGIN] * 3


def test_only_wanted_records_are_told() -> None:
    client = Client([entry(1), entry(2)])
    assert messages(follow(client, Query(text="m2"), 1)) == [["m2"]]


def test_after_its_end_nothing_is_asked_for() -> None:
    client = Client([])
    follow(client, Query(until="2026-11-23T02:08:01.000000000Z"), 1)
    assert client.asked == [(BEGIN, BEGIN + 1)]


def test_a_loki_that_was_away_is_told_once_and_asked_again() -> None:
    away = LokiError("away.")
    looks = follow(Client([], away, away, [entry(1)], away), Query(), 5)

    assert messages(looks) == [[], [], [], ["m1"], []]
    told = ("away. It is asked again every second.",)
    assert [look.problems for look in looks] == [(), told, (), (), told]


def test_one_that_was_never_there_is_an_error() -> None:
    with pytest.raises(LokiError, match="away"):
        follow(Client(LokiError("away")), Query(), 1)
