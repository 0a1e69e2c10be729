"""A query in LogQL: what it selects, how it is quoted, and that no wanted record is missed."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.formatter import LogLine
from observability.loki.logql import AHEAD_NS, SPAN_NS, quote, time_span, to_logql
from observability.loki.words import LABELS, METADATA, to_ns
from observability.trail.query import Query
from tests.integration.loki_api import is_selected, parse

NOW_NS = 1_795_000_000_123_456_789
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def unquote_go(quoted: str) -> str:
    """What Go's strconv.Unquote makes of a string in double quotes; ValueError for none."""
    if len(quoted) < 2 or quoted[0] != '"' or quoted[-1] != '"':
        raise ValueError(quoted)
    found, inner, position = "", quoted[1:-1], 0
    while position < len(inner):
        character = inner[position]
        position += 1
        if character in '"\n':
            raise ValueError(f"{character!r} must be escaped")
        if character != "\\":
            found += character
            continue
        escape = inner[position]
        position += 1
        if escape in ESCAPES or escape in '\\"':
            found += ESCAPES.get(escape, escape)
        elif escape in "uU":
            digits = inner[position : position + (4 if escape == "u" else 8)]
            code = int(digits, 16)
            if 0xD800 <= code < 0xE000:
                raise ValueError("half a surrogate pair")
            found += chr(code)
            position += len(digits)
        else:
            raise ValueError(f"\\{escape} is no escape")
    return found


@given(st.text() | st.text(alphabet='\\"\n\r\t\0\x7f\u2028\ufeff😀`{}|='))
def test_any_text_means_itself_once_it_is_quoted(text: str) -> None:
    quoted = quote(text)

    assert unquote_go(quoted) == text
    # Go's scanner takes no control character in its source but for these.
    assert not re.search(r"[\x00-\x1f]", quoted)


@pytest.mark.parametrize("wrong", ['"a"b"', '"\n"', r'"\x"', "a", r'"\ud83d\ude00"'])
def test_the_unquoter_of_this_test_refuses_what_go_refuses(wrong: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        unquote_go(wrong)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, '{job="serve"}'),
        ({"backend": "b"}, '{job="serve", backend="b"}'),
        ({"level": "DEBUG"}, '{job="serve"}'),
        ({"level": "INFO"}, '{job="serve", level!="DEBUG"}'),
        ({"level": "WARNING"}, '{job="serve", level=~"WARNING|ERROR|CRITICAL"}'),
        ({"level": "CRITICAL"}, '{job="serve", level=~"CRITICAL"}'),
        (
            {"backend": "b", "request_id": "r-1", "text": 'say "hi"', "replica": "b#1"},
            r'{job="serve", backend="b"} |= "\"r-1\"" |= "say \\\"hi\\\"" |= "\"replica\":\"b#1\""',
        ),
        ({"endpoint": "e"}, r'{job="serve"} |= "\"endpoint\":\"e\""'),
        ({"since": "2026-11-23T02:08:01.000000000Z"}, '{job="serve"}'),
    ],
    ids=str,
)
def test_labels_select_streams_and_the_rarest_text_filters_first(
    wanted: dict[str, str], expected: str
) -> None:
    assert to_logql(Query(**wanted)) == expected


texts = st.text(max_size=6)
levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NOTICE"]


@given(
    st.fixed_dictionaries({name: texts for name in ("backend", "replica", "endpoint")}),
    texts,
    texts,
    st.sampled_from(levels),
    st.sampled_from(["", *levels[:5]]),
    st.data(),
)
def test_every_wanted_record_is_asked_for(
    tags: dict[str, str], request_id: str, message: str, own: str, least: str, data: st.DataObject
) -> None:
    begin = data.draw(st.integers(0, len(message)))
    query = Query(**tags, request_id=request_id, level=least, text=message[begin : begin + 3])
    ids: dict[str, Any] = data.draw(
        st.sampled_from([{"request_id": request_id}, {"batch_ids": ("other", request_id)}])
    )
    line = encode_line(LogLine("t", "log", own, "l", message, **ids), encode_tail(tags)).decode()
    assume(query.matches(json.loads(line)))

    parsed = parse(to_logql(query))

    assert parsed is not None
    labels = {"job": "serve", "backend": tags["backend"], "level": own}
    assert all(is_selected(labels, *matcher) for matcher in parsed[0])
    assert all(text in line for text in parsed[1])


def test_without_times_the_last_seven_days_are_asked_for_and_clocks_may_differ() -> None:
    assert time_span(Query(), NOW_NS) == (NOW_NS - SPAN_NS, NOW_NS + AHEAD_NS)
    assert SPAN_NS == 7 * 86_400 * 10**9


def test_the_latest_time_is_still_asked_for_though_lokis_end_is_exclusive() -> None:
    query = Query(since="2026-11-23T02:08:01.000000001Z", until="2026-11-23T02:08:01.000000002Z")
    start, end = time_span(query, NOW_NS)
    assert (start % 10**9, end - start) == (1, 2)


def test_a_time_before_the_epoch_is_the_epoch() -> None:
    assert time_span(Query(since="1900-01-01T00:00:00.000000000Z"), NOW_NS)[0] == 0


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2026-11-23T02:08:01.123456789Z", 1_795_399_681_123_456_789),
        ("2026-11-23T02:08:01.5Z", 1_795_399_681_500_000_000),
    ],
)
def test_a_records_time_is_exact_to_the_nanosecond(time: str, expected: int) -> None:
    assert to_ns(time) == expected


@pytest.mark.parametrize("time", ["", "soon"])
def test_what_is_no_time_of_a_record_is_refused(time: str) -> None:
    with pytest.raises(ValueError):
        to_ns(time)


def test_labels_are_few_and_what_is_searched_for_is_metadata() -> None:
    assert set(LABELS) == {"component", "backend", "level"}
    assert {"replica", "request_id", "endpoint", "trace_id", "kind"} <= set(METADATA)
