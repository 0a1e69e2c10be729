"""What a handler returned, as an HTTP answer."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from serve.replica.answers import BadAnswerError, check_head, encode_answer


class Item(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("value", "body", "content_type"),
    [
        (None, b"", b"text/plain"),
        (b"\xff\x00", b"\xff\x00", b"text/plain"),
        ("grün", "grün".encode(), b"text/plain; charset=utf-8"),
        ("", b"", b"text/plain; charset=utf-8"),
        ({"a": [1, 2]}, b'{\n  "a": [\n    1,\n    2\n  ]\n}', b"application/json"),
        ([], b"[]", b"application/json"),
        (0, b"0", b"application/json"),
        (1.5, b"1.5", b"application/json"),
        (True, b"true", b"application/json"),
    ],
    ids=repr,
)
def test_a_plain_value_has_the_documented_body_and_type(
    value: object, body: bytes, content_type: bytes
) -> None:
    assert encode_answer(value) == (body, content_type)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (Item(name="tea"), {"name": "tea"}),
        (ValueError("boom"), "boom"),
        ({"inside": [b"bytes", np.array([1]), Item(name="tea")]},
         {"inside": ["bytes", [1], {"name": "tea"}]}),
        ((1, 2), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_does_not_know_is_written_as_what_it_means(value: Any, expected: Any) -> None:
    body, content_type = encode_answer(value)
    assert (json.loads(body), content_type) == (expected, b"application/json")


@pytest.mark.parametrize(
    "value",
    [{1, 2}, frozenset(), object(), {"a": {1}}, 1j],
    ids=["set", "frozenset", "object", "set inside", "complex"],
)
def test_what_has_no_json_form_is_refused_by_its_type(value: object) -> None:
    inner = value["a"] if isinstance(value, dict) else value
    with pytest.raises(TypeError, match=f"returned a {type(inner).__name__}, which JSON can't"):
        encode_answer(value)


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ([(b"x", b"a\nb")], "'x'"),
        ([(b"content-disposition", b"attachment; filename=a\r\nSet-Cookie: b")], "'content-disp"),
        ([(b"x", b"\x00")], "'x'"),
        ([(b"x", b"\x7f")], "'x'"),
        ([(b"a b", b"")], "b'a b'"),
        ([(b"", b"x")], "b''"),
        ([(b"x:", b"y")], "b'x:'"),
        ([(b"x", "text")], "'x'"),
        ([("x", b"text")], "'x'"),
        ([(b"content-length", b"ten")], "'content-length'"),
        ([(b"content-length", b"-1")], "'content-length'"),
        ([(b"content-length", b"1"), (b"Content-Length", b"2")], "'content-length'"),
    ],
)
def test_a_header_that_is_no_http_is_refused_by_its_name(headers: Any, named: str) -> None:
    with pytest.raises(BadAnswerError, match=re.escape(named)):
        check_head(200, headers)


@pytest.mark.parametrize("status", [0, 99, 100, 101, 600, 1000, "200", None])
def test_a_status_that_is_none_is_refused(status: object) -> None:
    with pytest.raises(BadAnswerError, match="Expected 200 to 599"):
        check_head(status, [])


@pytest.mark.parametrize("value", [b"", b"a\tb", b"\xe4\xff", b'"a%0Ab"'])
def test_what_http_allows_in_a_header_passes(value: bytes) -> None:
    check_head(200, [(b"X-Any", value), (b"content-length", b"0"), (b"content-length", b"0")])
