"""What a handler returned, as an HTTP answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from serve.replica.answers import encode_answer


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
