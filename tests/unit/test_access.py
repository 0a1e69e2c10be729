"""The access record, and how it is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.fields import Kind, fields_of
from observability.instrument.access import AccessRecord, to_ms
from observability.instrument.access_log import AccessLog
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter

STATIC = {"component": "serve", "backend": "b", "replica": "b#abcdef", "node": "n", "pid": 7}

hostile_texts = st.lists(
    st.text()
    | st.sampled_from(['","replica":"x', '"}\n{"replica":"x"}', "\x00", "\r\n", "\ud800", "\\"]),
    max_size=3,
).map("".join)


def write(folder: Path, *records: AccessRecord) -> list[dict[str, Any]]:
    """What is in the segments after these records were written."""
    writer = SegmentWriter(str(folder), "replica_b#abcdef", Retention())
    log = AccessLog(writer, STATIC)
    for record in records:
        log.write(record)
    writer.close()
    (path,) = folder.iterdir()
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_record_has_the_fields_of_the_table() -> None:
    table = {field.name for field in fields_of(Kind.ACCESS)}
    assert set(AccessRecord.__struct_fields__) | set(STATIC) == table


def test_what_is_written_are_the_facts_the_time_and_the_processs_own_fields(
    tmp_path: Path,
) -> None:
    facts: dict[str, Any] = {
        **{"way": "http", "method": "GET", "path": "/f", "status": 200, "endpoint": "e"},
        **{"route": "/f", "request_id": "r-1", "queue_ms": 0.0, "processing_ms": 1.25},
        **{"bytes_in": 0, "bytes_out": 5},
    }
    (record,) = write(tmp_path, AccessRecord(**facts))
    assert record.pop("time") > "2020"
    assert record == {"kind": "access", "level": "INFO", **facts, **STATIC}


@pytest.mark.parametrize(
    ("status", "level"),
    [(200, "INFO"), (404, "INFO"), (499, "INFO"), (500, "ERROR"), (504, "ERROR")],
)
def test_a_servers_failure_is_an_error_and_nothing_else(
    tmp_path: Path, status: int, level: str
) -> None:
    (record,) = write(tmp_path, AccessRecord(status=status))
    assert record["level"] == level


def test_records_that_are_written_at_once_have_rising_times(tmp_path: Path) -> None:
    records = write(tmp_path, *(AccessRecord(status=200) for _ in range(100)))
    times = [record["time"] for record in records]
    assert times == sorted(set(times))


def test_a_record_without_facts_tells_none(tmp_path: Path) -> None:
    (record,) = write(tmp_path, AccessRecord())
    assert set(record) == {"time", "kind", "level", *STATIC}


@given(hostile_texts, hostile_texts, hostile_texts, hostile_texts)
def test_no_path_method_client_or_error_forges_a_field(
    path: str, method: str, client: str, error: str
) -> None:
    given_texts = {"path": path, "method": method, "client": client, "error": error}
    record = AccessRecord(time="t", kind="access", level="INFO", status=200, **given_texts)
    line = encode_line(record, encode_tail(STATIC))
    assert line.count(b"\n") == 1
    found = json.loads(line, object_pairs_hook=list)
    assert [name for name, _ in found] == [
        *("time", "kind", "level"),
        *(
            name
            for name in AccessRecord.__struct_fields__
            if given_texts.get(name) or name == "status"
        ),
        *STATIC,
    ]
    assert dict(found) | STATIC == dict(found)
    for name, text in given_texts.items():
        assert dict(found).get(name, "") == text.encode("utf-8", "backslashreplace").decode()


@given(st.floats(0, 1e6))
def test_milliseconds_have_three_decimals(seconds: float) -> None:
    ms = to_ms(seconds)
    assert math.isclose(ms, seconds * 1000, rel_tol=1e-9, abs_tol=0.000_51)
    assert round(ms, 3) == ms
