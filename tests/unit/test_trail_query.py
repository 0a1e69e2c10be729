"""Which records are wanted."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.formatter import LogLine
from observability.trail.query import Query, level_number, parse_time

NOW = datetime(2026, 11, 23, 2, 8, 1, 123456, tzinfo=timezone.utc)
RECORD = {
    **{"time": "2026-11-23T02:08:01.123456789Z", "kind": "log", "level": "WARNING"},
    **{"backend": "b", "replica": "b#1", "endpoint": "e", "request_id": "r-1"},
    **{"message": "count: 5", "extra": {"user": "anna", "sizes": [7, "large"]}, "line": 42},
}


@pytest.mark.parametrize(
    ("wanted", "is_found"),
    [
        ({}, True),
        ({"backend": "b"}, True),
        ({"backend": "B"}, False),
        ({"replica": "b#1", "endpoint": "e"}, True),
        ({"replica": "b#1", "endpoint": "other"}, False),
        ({"request_id": "r-1"}, True),
        ({"request_id": "r"}, False),
        ({"level": "INFO"}, True),
        ({"level": "WARNING"}, True),
        ({"level": "ERROR"}, False),
        ({"text": "count"}, True),
        ({"text": "anna"}, True),
        ({"text": "large"}, True),
        ({"text": "42"}, True),
        ({"text": "message"}, False),
        ({"text": "Count"}, False),
        ({"since": RECORD["time"], "until": RECORD["time"]}, True),
        ({"since": "2026-11-23T02:08:01.123456790Z"}, False),
        ({"until": "2026-11-23T02:08:01.123456788Z"}, False),
    ],
    ids=str,
)
def test_a_record_must_be_like_all_that_is_asked_for(wanted: Any, is_found: bool) -> None:
    assert Query(**wanted).matches(RECORD) is is_found


def test_a_batchs_record_is_each_of_its_requests() -> None:
    record = {"message": "m", "batch_ids": ["r-1", "r-2"]}
    assert Query(request_id="r-2").matches(record)
    assert not Query(request_id="r").matches(record)


@pytest.mark.parametrize(
    ("level", "number"), [("DEBUG", 10), ("CRITICAL", 50), ("NOTICE", 20), (None, 20), (7, 20)]
)
def test_a_level_that_is_not_known_counts_as_info(level: object, number: int) -> None:
    assert level_number({"level": level}) == number


names = st.sampled_from([*RECORD, "batch_ids", "other"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
queries = st.builds(
    Query,
    **{name: st.text(max_size=3) for name in ("backend", "replica", "endpoint", "request_id")},
    text=st.text(max_size=3),
    level=st.sampled_from(["", "DEBUG", "ERROR"]),
    since=st.sampled_from(["", RECORD["time"]]),
    until=st.sampled_from(["", RECORD["time"]]),
)


@given(queries, st.dictionaries(names, json_values))
def test_a_foreign_record_with_values_of_any_type_is_decided_on(
    query: Query, record: dict[str, Any]
) -> None:
    assert query.matches(record) in (True, False)


texts = st.text(max_size=8)


@given(
    st.fixed_dictionaries({name: texts for name in ("backend", "replica", "endpoint")}),
    texts,
    texts,
    st.dictionaries(texts, texts | st.integers() | st.lists(texts, max_size=2), max_size=2),
    st.data(),
)
def test_the_line_of_every_wanted_record_contains_all_the_needles(
    tags: dict[str, str], request_id: str, message: str, extra: dict[str, Any], data: st.DataObject
) -> None:
    tail = encode_tail({"component": "serve", **tags})
    ids = ("other", request_id)
    line_of = LogLine("t", "log", "INFO", "l", message, request_id=request_id, extra=extra)
    batch = LogLine("t", "log", "INFO", "l", message, batch_ids=ids, extra=extra)
    begin = data.draw(st.integers(0, len(message)))
    query = Query(**tags, request_id=request_id, text=message[begin : begin + 3])
    for record in (line_of, batch):
        line = encode_line(record, tail)
        is_wanted = query.matches(json.loads(line))  # but for what a line can't hold
        assert not is_wanted or all(needle in line for needle in query.needles())


def test_the_rarest_needle_is_searched_for_first() -> None:
    query = Query(backend="b", replica="b#1", request_id="r-1", text='a"b')
    assert query.needles() == [
        *(b'"r-1"', b'a\\"b'),
        *(b'"replica":"b#1"', b'"backend":"b"'),
    ]
    assert Query(text="a", backend="b").needles() == [b"a", b'"backend":"b"']
    assert Query(level="ERROR", since="2026").needles() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", "2026-11-23T02:08:01.123456000Z"),
        ("10m", "2026-11-23T01:58:01.123456000Z"),
        ("1.5h", "2026-11-23T00:38:01.123456000Z"),
        ("250ms", "2026-11-23T02:08:00.873456000Z"),
        ("1d", "2026-11-22T02:08:01.123456000Z"),
        ("2w", "2026-11-09T02:08:01.123456000Z"),
        ("2026-11-23T02:08:01Z", "2026-11-23T02:08:01.000000000Z"),
        ("2026-11-23T02:08:01.5Z", "2026-11-23T02:08:01.500000000Z"),
        ("2026-11-23T02:08:01.123456789Z", "2026-11-23T02:08:01.123456789Z"),
        ("2026-11-23T02:08:01.000000001+00:00", "2026-11-23T02:08:01.000000001Z"),
        ("2026-11-23T04:08:01+02:00", "2026-11-23T02:08:01.000000000Z"),
    ],
)
def test_a_time_is_how_long_ago_or_as_records_have_it(text: str, expected: str) -> None:
    assert parse_time(text, NOW) == expected


def test_a_time_without_a_zone_is_the_users_own() -> None:
    own = datetime(2026, 11, 23, 2, 8, 1).astimezone(timezone.utc)
    assert parse_time("2026-11-23T02:08:01", NOW) == f"{own:%Y-%m-%dT%H:%M:%S}.000000000Z"
    assert parse_time("2026-11-23", NOW) == parse_time("2026-11-23T00:00:00", NOW)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "10", "m", "-5m", "10 m", "99999999999d", "0001-01-01T00:00:00+10:00", "12:00"],
)
def test_what_is_no_time_is_refused_and_the_forms_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time\. Expected how long ago \(30s, 10m"):
        parse_time(text, NOW)


@given(st.text())
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        found = parse_time(text, NOW)
    except ValueError:
        return
    assert found.endswith("Z")
    assert len(found) == len(RECORD["time"])


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)), st.integers(0, 10**9 - 1))
def test_a_records_time_is_kept_to_the_nanosecond(moment: datetime, nanosecond: int) -> None:
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{nanosecond:09d}Z"
    assert parse_time(text, NOW) == text
    assert parse_time(text, NOW + timedelta(days=1)) == text


def test_a_message_is_found_by_what_the_encoder_made_of_it() -> None:
    message = 'tab\t "quoted" back\\slash \x00 ünï\x7f'
    line = msgspec.json.encode({"message": message})
    for begin in range(len(message)):
        query = Query(text=message[begin:])
        assert query.matches(json.loads(line))
        assert all(needle in line for needle in query.needles())
