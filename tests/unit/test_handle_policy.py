"""Whose turn it is, and what is said when nobody is free."""

from __future__ import annotations

from serve.handle.policy import RoundRobin, queue_full_error, queue_timeout_error
from serve.records import BackendTargets


def test_replicas_take_turns() -> None:
    turns = RoundRobin()
    taken = [turns.take("abc", lambda replica: True) for _ in range(7)]
    assert "".join(map(str, taken)) == "abcabca"


def test_who_has_no_room_is_passed_over_and_loses_its_turn_only() -> None:
    turns = RoundRobin()
    assert turns.take("abc", lambda replica: replica != "a") == "b"
    assert turns.take("abc", lambda replica: True) == "c"
    assert turns.take("abc", lambda replica: True) == "a"


def test_nobody_with_room_is_none_and_takes_no_turn() -> None:
    turns = RoundRobin()
    assert turns.take("abc", lambda replica: False) is None
    assert turns.take([], lambda replica: True) is None
    assert turns.take("abc", lambda replica: True) == "a"


def test_a_turn_outlives_replicas_that_go() -> None:
    turns = RoundRobin()
    assert [turns.take("abc", lambda replica: True) for _ in range(3)] == ["a", "b", "c"]
    assert turns.take("a", lambda replica: True) == "a"


def test_the_errors_name_the_backend_its_limit_and_the_next_step() -> None:
    targets = BackendTargets("b", (), 3, 7, 1.5)
    full, late = str(queue_full_error(targets)), str(queue_timeout_error(targets))
    assert "backend 'b' is full: 7 calls" in full and "raise max_queued_queries" in full
    assert "within 1.5 s (queue_timeout_s)" in late and "each takes 3 at once" in late
