"""Records and trees as lines for a terminal."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timezone
from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from observability.fields import FIELDS
from observability.trail.query import Record
from observability.trail.show import _STAGES, BAR, show_record, show_request
from observability.trail.tree import assemble

TIME = "2026-11-23T02:00:00.100000000Z"
LOG: Record = {
    **{"time": TIME, "kind": "log", "level": "INFO", "replica": "model#abcdef", "file": "a.py"},
    **{"line": 13, "message": "Some info!", "request_id": "r-1", "component": "serve"},
}
ACCESS: Record = {
    **{"time": TIME, "kind": "access", "level": "INFO", "replica": "model#abcdef", "way": "http"},
    **{"method": "GET", "path": "/f", "status": 200, "queue_ms": 10.0, "processing_ms": 90.0},
    **{"bytes_out": 5, "request_id": "r-1", "span_id": "root", "endpoint": "e"},
}


def plain(record: Record) -> str:
    """A record's line without colours, and without its time."""
    return click.unstyle(show_record(record)).partition(" ")[2].partition(" ")[2]


def lines_of(*records: Record) -> list[str]:
    """A request's trees without colours."""
    return [click.unstyle(line) for line in show_request(assemble(records), "r-1")]


def call(begin_ms: int, end_ms: int, **more: Any) -> Record:
    """A step that the root called."""
    return {
        **{"time": f"2026-11-23T02:00:00.{end_ms:03d}000000Z", "kind": "access", "way": "call"},
        **{"endpoint": "e", "method": "__call__", "replica": "inner#abcdef", "status": 200},
        **{"queue_ms": 0.0, "processing_ms": float(end_ms - begin_ms), "parent_id": "root"},
    } | more


def test_a_log_record_is_its_time_level_replica_request_place_and_message() -> None:
    assert plain(LOG) == "INFO     model#abcdef r-1  a.py:13 -- Some info!"
    own = datetime(2026, 11, 23, 2, 0, 0, 100_000, tzinfo=timezone.utc).astimezone()
    assert click.unstyle(show_record(LOG)).startswith(f"{own:%Y-%m-%d %H:%M:%S}.100 INFO")


def test_what_was_printed_names_its_stream() -> None:
    record = {**LOG, "logger": "stdout"}
    del record["file"], record["line"]
    assert plain(record).endswith("  stdout -- Some info!")


def test_what_was_given_as_extra_is_shown() -> None:
    assert plain({**LOG, "extra": {"user": 7}}).endswith("Some info!  {'user': 7}")


def test_a_traceback_stands_below_its_record() -> None:
    record = {**LOG, "exception": "Traceback:\n  File\nKeyError: \x1b[2J"}
    _, *below = show_record(record).split("\n")
    assert below == ["    Traceback:", "      File", "    KeyError: \\x1b[2J"]


def test_an_access_record_is_its_facts() -> None:
    assert plain(ACCESS) == (
        "INFO     model#abcdef r-1  GET /f 200  waited 10.0 ms  ran 90.0 ms  5 bytes"
    )
    failed = {**ACCESS, "way": "call", "status": 500, "error": "KeyError: 'gone'"}
    assert "call e.GET 500" in plain(failed)
    assert plain(failed).endswith("  KeyError: 'gone'")


@pytest.mark.parametrize(
    ("level", "code"),
    [("ERROR", "\x1b[31m"), ("WARNING", "\x1b[33m"), ("DEBUG", "\x1b[90m"), ("INFO", "")],
)
def test_levels_have_their_colours(level: str, code: str) -> None:
    head = show_record({**LOG, "level": level}).partition(level)[0]
    assert head.endswith(f"{code}") if code else "\x1b[3" not in head


def test_a_request_is_shown_as_a_tree_with_its_lines() -> None:
    lines = lines_of(
        ACCESS,
        {**LOG, "time": "2026-11-23T02:00:00.050000000Z"},
        call(20, 30),
        call(40, 90, replica="last#abcdef"),
    )
    assert lines[0].startswith("Request r-1  2026-11-2")
    assert lines[1].startswith("GET /f  200  model#abcdef  +0.0 ms  waited 10.0 ms  ran 90.0 ms")
    assert lines[2] == "│       50.0 ms  INFO a.py:13 -- Some info!"
    assert lines[3].startswith("├─ call e.__call__  200  inner#abcdef  +20.0 ms  ran 10.0 ms  |")
    assert lines[4].startswith("└─ call e.__call__  200  last#abcdef  +40.0 ms  ran 50.0 ms  |")
    assert lines[4].endswith("◀ most of the time was spent here")
    assert lines[5:] == [""]


def test_a_failed_step_says_why_and_shows_its_traceback() -> None:
    lines = lines_of(
        ACCESS,
        call(10, 20, status=500, error="KeyError: 'gone'", exception="Traceback:\nKeyError"),
    )
    assert "✗ KeyError: 'gone'" in lines[2]
    assert lines[3:5] == ["      Traceback:", "      KeyError"]


def test_a_step_that_waited_too_long_says_so() -> None:
    lines = lines_of(ACCESS, call(10, 90, queue_ms=70.0, processing_ms=10.0))
    assert lines[2].endswith("◀ most of the time was spent waiting")


ENDED: Record = {
    **{"time": "2026-11-23T02:00:00.090000000Z", "kind": "log", "level": "ERROR"},
    **{"replica": "model#abcdef", "message": "ended", "died_by": "SIGKILL", "component": "serve"},
}


@pytest.mark.parametrize(
    ("facts", "is_live", "head"),
    [
        ([], False, "no record (yet): under way, or lost (was at model#abcdef)"),
        (
            [],
            True,
            "lost: no record, no replica has it under way, died of it or dropped records "
            "(was at model#abcdef)",
        ),
        (
            [{**LOG, "message": "7 dropped", "dropped": 7, "request_id": ""}],
            True,
            "not recorded: at model#abcdef 7 dropped (was at model#abcdef)",
        ),
        (
            [ENDED],
            True,
            "a step  killed  model#abcdef  +0.0 ms  ran 40.0 ms    ✗ its process ended by SIGKILL",
        ),
    ],
    ids=["unknown", "lost", "dropped", "killed"],
)
def test_a_step_without_a_record_is_shown_as_what_is_known_of_it(
    facts: list[Record], is_live: bool, head: str
) -> None:
    said = {**LOG, "time": "2026-11-23T02:00:00.050000000Z"}
    roots = assemble([said, *facts], is_live=is_live)
    lines = [click.unstyle(line) for line in show_request(roots, "r-1")]
    assert lines[1] == head
    assert lines[2].endswith("Some info!")


@pytest.mark.parametrize("stage", ["gate", "thread", "batch", "run", "send", "queue", "sent"])
def test_a_step_under_way_says_since_when_and_what_it_is_at(stage: str) -> None:
    running = {**ACCESS, "kind": "under_way", "stage": stage, "backend": "model"}
    del running["status"]
    line = lines_of(running)[1]
    assert line.startswith("GET /f  under way  model#abcdef  +0.0 ms  waited 10.0 ms  ran 90.0 ms")
    assert f":00.000: {_STAGES[stage]}" in line


def test_a_step_that_another_replica_had_first_shows_that_attempt() -> None:
    ended = {**ENDED, "request_id": "r-1", "processing_ms": 50.0, "backend": "model"}
    lines = lines_of({**ACCESS, "replica": "model#second", "backend": "model", "retries": 1}, ended)
    assert "  attempt 2" in lines[1]
    assert lines[2].startswith("└─ attempt 1  killed  model#abcdef  +40.0 ms  ran 50.0 ms  |")
    assert lines[2].endswith("✗ its process ended by SIGKILL")


def test_several_requests_of_one_id_are_said_to_be_several() -> None:
    lines = lines_of(ACCESS, {**ACCESS, "span_id": "other"})
    assert lines[0] == "2 requests, or parts of one, have the id r-1:"
    assert sum(line.startswith("Request r-1") for line in lines) == 2


def test_a_request_that_is_not_known_has_no_lines() -> None:
    assert lines_of() == []


def bar_of(line: str) -> str:
    return line.partition("|")[2].partition("|")[0]


@pytest.mark.parametrize(
    ("begin_ms", "end_ms", "queue_ms", "expected"),
    [
        (0, 100, 0.0, "█" * 20),
        (50, 100, 0.0, " " * 10 + "█" * 10),
        (0, 100, 50.0, "░" * 10 + "█" * 10),
        (99, 100, 0.0, " " * 19 + "█"),
        (0, 1, 0.0, "█" + " " * 19),
    ],
)
def test_the_bar_shows_where_in_the_request_a_step_lies(
    begin_ms: int, end_ms: int, queue_ms: float, expected: str
) -> None:
    step = call(begin_ms, end_ms, queue_ms=queue_ms, processing_ms=end_ms - begin_ms - queue_ms)
    root = {**ACCESS, "queue_ms": 0.0, "processing_ms": 100.0}
    assert bar_of(lines_of(root, step)[2]) == expected


times = st.floats(0, 1000)


@given(times, times, times, st.integers(0, 999))
def test_any_times_make_a_bar_of_one_width(
    root_ms: float, queue_ms: float, processing_ms: float, end_ms: int
) -> None:
    root = {**ACCESS, "processing_ms": root_ms}
    step = call(0, end_ms, queue_ms=queue_ms, processing_ms=processing_ms)
    lines = lines_of(root, step)
    assert "|" not in lines[1]
    assert len(bar_of(next(line for line in lines if "inner#" in line))) == BAR


hostile = st.text() | st.sampled_from(["\x1b[2J", "a\nb", "\u202eabc", "\x00", "\r"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | hostile,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
names = st.sampled_from([field.name for field in FIELDS if field.name not in ("time", "kind")])
kinds = st.sampled_from(["log", "access"])


@given(kinds, st.dictionaries(names, json_values))
@example("log", {"file": "a.py", "line": "\x1f"})
@example("access", {"queue_ms": 63930909600101})
@example("access", {"queue_ms": -9223372035059375144961})
def test_no_value_steers_the_terminal_or_makes_a_line_of_its_own(
    kind: str, fields: dict[str, Any]
) -> None:
    record = {"time": TIME, "kind": kind, **fields}
    shown = click.unstyle(show_record(record)) + "\n"
    shown += "\n".join(click.unstyle(line) for line in show_request(assemble([record]), "r-1"))
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\t\n"]
    assert "\u202e" not in shown
    first, *below = click.unstyle(show_record(record)).split("\n")
    assert first
    assert all(line.startswith("    ") for line in below)
    if not fields.get("exception"):
        assert below == []
