"""Lines as Loki's push API wants them."""

from __future__ import annotations

import json
from typing import Any

from observability.fields import FIELDS, Role
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.formatter import LogLine
from observability.loki.entries import encode_push

TIME = "2026-11-23T02:08:01.123456789Z"
STATIC = {
    **{"component": "serve", "backend": "b", "replica": "b#1", "node": "10.0.0.1", "pid": 7},
    "team": "search",
}


def make_line(message: str = "m", level: str = "INFO", **static: Any) -> bytes:
    line = LogLine(TIME, "log", level, "l", message, request_id="r-1", extra={"user": "anna"})
    return encode_line(line, encode_tail(static))


def streams(*lines: bytes, **labels: str) -> list[Any]:
    found: list[Any] = json.loads(encode_push(lines, labels))["streams"]
    return found


def test_a_record_goes_by_the_roles_of_its_fields() -> None:
    line = make_line('tab\t "quoted"', **STATIC)

    (stream,) = streams(line)

    assert stream["stream"] == {
        "job": "serve",
        "component": "serve",
        "backend": "b",
        "level": "INFO",
    }
    ((time_ns, text, metadata),) = stream["values"]
    assert time_ns == "1795399681123456789"
    assert text == line.decode().rstrip("\n")
    assert metadata == {
        **{"kind": "log", "replica": "b#1", "node": "10.0.0.1", "pid": "7", "request_id": "r-1"},
        "logger": "l",
    }
    roles = {field.name: field.role for field in FIELDS}
    assert {roles[name] for name in metadata} == {Role.METADATA}


def test_each_level_of_a_backend_is_a_stream_and_keeps_its_order() -> None:
    lines = [make_line(f"m{n}", ("INFO", "ERROR")[n % 2], **STATIC) for n in range(6)]

    found = {
        s["stream"]["level"]: [json.loads(v[1])["message"] for v in s["values"]]
        for s in streams(*lines)
    }

    assert found == {"INFO": ["m0", "m2", "m4"], "ERROR": ["m1", "m3", "m5"]}


def test_labels_that_were_given_join_them() -> None:
    (stream,) = streams(make_line(**STATIC), env="prod")
    assert stream["stream"]["env"] == "prod"
    assert stream["stream"]["job"] == "serve"


def test_outside_of_tagtrail_the_job_is_python_unless_another_is_given() -> None:
    line = make_line(pid=7)
    assert streams(line)[0]["stream"] == {"job": "python", "level": "INFO"}
    assert streams(line, job="training")[0]["stream"]["job"] == "training"
