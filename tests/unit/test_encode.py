"""One record becomes one line of JSON, whatever it holds."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.encode import (
    MAX_CHARS,
    MAX_LINE_BYTES,
    cut_text,
    encode_line,
    encode_tail,
    safe_repr,
)
from observability.instrument.formatter import LogLine

TAIL = encode_tail({"component": "serve", "replica": "b#abcdef"})


class Unwilling:
    """Has no repr that works."""

    def __repr__(self) -> str:
        raise ValueError("no")


class Talkative:
    """Its repr tries to be more than one value."""

    def __repr__(self) -> str:
        return '"}\n{"replica":"forged"}\x00\ud800'


class OddText(str):
    """A str with methods of its own."""

    def __str__(self) -> str:
        raise ValueError("no")

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise ValueError("no")


class OddDict(dict[str, Any]):
    """A dict with methods of its own."""

    def items(self) -> Any:
        raise ValueError("no")


class OddList(list[Any]):
    """A list with methods of its own."""

    def __iter__(self) -> Any:
        raise ValueError("no")

    def __len__(self) -> int:
        raise ValueError("no")


@dataclasses.dataclass
class Node:
    """One of the objects that msgspec knows how to encode."""

    name: str
    parent: Node | None = None


def endless_list() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def endless_node() -> Node:
    node = Node("a")
    node.parent = node
    return node


def deep_list() -> list[Any]:
    found: list[Any] = []
    for _ in range(5000):
        found = [found]
    return found


ODD_THINGS: list[Any] = [
    *(Unwilling(), Talkative(), OddText("odd"), OddDict(a=1), OddList([1]), object(), len, None),
    *(math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, 2**70, 10**400, 10**5000),
    *(endless_list(), endless_node(), deep_list(), Node("a", Node("b"))),
    *(b"\xff\n", {1, 2}, 1j, datetime(2026, 11, 23, tzinfo=timezone.utc), int, "\ud800"),
    msgspec.Raw(b'{\n"a":\n1}'),
]
odd_things = st.sampled_from(range(len(ODD_THINGS))).map(lambda number: ODD_THINGS[number])
keys = st.text() | st.integers() | st.none() | st.tuples(st.integers()) | st.just("\udfff")
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    odd_things | st.text() | st.integers() | st.floats() | st.booleans() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def read(line: bytes) -> dict[str, Any]:
    """The record of a line, which must be one whole line of JSON."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


def encode(value: object) -> Any:
    """What a reader finds of a value in a record's `extra`."""
    record = read(encode_line({"message": "m", "extra": {"v": value}}, TAIL, is_free=True))
    assert list(record) == ["message", "extra", "component", "replica"]
    assert record["replica"] == "b#abcdef"
    return record["extra"]["v"]


@given(st.dictionaries(keys, values, max_size=4))
def test_anything_is_one_line_and_forges_no_field(extra: dict[Any, Any]) -> None:
    line = encode_line({"message": "m", "extra": extra}, TAIL, is_free=True)
    record = read(line)
    assert list(record) == ["message", "extra", "component", "replica"]
    assert (record["message"], record["component"]) == ("m", "serve")
    assert record["replica"] == "b#abcdef"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | finite,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_what_json_holds_is_read_as_it_was(value: Any) -> None:
    assert encode(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (Unwilling(), "<Unwilling, its repr raised ValueError>"),
        (Talkative(), '"}\n{"replica":"forged"}\x00\\ud800'),
        ("half \ud800", "half \\ud800"),
        (1j, "1j"),
        (10**5000, "<int, its repr raised ValueError>"),
        ({(1, 2): "a"}, {"(1, 2)": "a"}),
        ({"\ud800": 1}, {"\\ud800": 1}),
        (endless_node(), "Node(name='a', parent=...)"),
        ([OddDict(a=1), "\ud800"], ["{'a': 1}", "\\ud800"]),
        ([OddList([1]), "\ud800"], ["[1]", "\\ud800"]),
        ([OddText("odd"), "\ud800"], ["odd", "\\ud800"]),
    ],
    ids=safe_repr,
)
def test_what_json_cannot_hold_is_its_repr(value: object, expected: object) -> None:
    assert encode(value) == expected


@pytest.mark.parametrize("neighbour", ["plain", None, math.nan, "\ud800"], ids=repr)
def test_a_value_is_told_alike_whatever_stands_beside_it(neighbour: object) -> None:
    value = {"node": Node("a", Node("b")), "day": datetime(2026, 11, 23), "bytes": b"ab"}
    assert encode([value, neighbour])[0] == {
        "node": {"name": "a", "parent": {"name": "b", "parent": None}},
        "day": "2026-11-23T00:00:00",
        "bytes": "YWI=",
    }


def test_json_that_the_user_gave_makes_no_second_line() -> None:
    assert "Raw" in encode(msgspec.Raw(b'{\n"replica":\n"forged"}'))


def test_objects_that_all_refer_to_each_other_have_an_end() -> None:
    hub: dict[str, Any] = {"name": "hub"}
    hub["children"] = [{"number": number, "parent": hub} for number in range(200)]
    line = encode_line({"message": "m", "extra": hub}, TAIL, is_free=True)
    assert len(line) <= MAX_LINE_BYTES
    assert read(line)["extra"]["name"] == "hub"


@pytest.mark.parametrize(
    "extra",
    [
        {"text": "a" * 10**6},
        {"text": "\x00" * 10**6},
        {"numbers": list(range(10**5))},
        {"many": ["\x00" * 1000] * 1000},
        {f"name {number}": "\x00" * 100 for number in range(1000)},
        {"deep": deep_list(), "text": "漢" * 10**5},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_line_that_no_log_store_would_take_is_cut_and_says_so(extra: dict[str, Any]) -> None:
    line = LogLine("t", "log", "INFO", "l", "message", request_id="r", extra=extra)
    data = encode_line(line, TAIL, is_free=True)
    assert len(data) <= MAX_LINE_BYTES
    record = read(data)
    assert (record["message"], record["request_id"]) == ("message", "r")
    assert record["cut_chars"] > 0
    assert isinstance(record["extra"], dict)


def test_each_text_of_a_too_long_line_keeps_its_beginning_and_its_end() -> None:
    long = "begin" + "\x00" * MAX_CHARS + "end"
    data = encode_line(LogLine("t", "log", "INFO", "l", long, exception=long), TAIL)
    assert len(data) <= MAX_LINE_BYTES
    record = read(data)
    for name in ("message", "exception"):
        assert record[name].startswith("begin")
        assert record[name].endswith("end")
    assert record["replica"] == "b#abcdef"


def test_a_struct_that_needs_care_has_no_fields_without_a_value_either() -> None:
    line = LogLine("t", "log", "INFO", "l", "half \ud800", line=5)
    assert read(encode_line(line, TAIL)) == {
        **{"time": "t", "kind": "log", "level": "INFO", "logger": "l", "message": "half \\ud800"},
        **{"line": 5, "component": "serve", "replica": "b#abcdef"},
    }


@given(st.dictionaries(st.text(), values, min_size=1, max_size=4))
def test_any_fixed_fields_end_each_line(static: dict[str, Any]) -> None:
    static = {f"x{name}": value for name, value in static.items()}
    record = read(encode_line({"message": "m"}, encode_tail(static)))
    assert record["message"] == "m"
    assert len(record) <= 1 + len(static)


@given(st.text(), st.integers(2, 20))
def test_a_cut_text_is_its_beginning_and_its_end(text: str, chars: int) -> None:
    cut = cut_text(text, chars)
    if len(text) <= chars:
        assert cut == text
    else:
        begin, _, end = cut.partition(" … ")
        assert text.startswith(begin)
        assert text.endswith(end)
        assert len(cut) <= chars + 3


def test_a_long_repr_is_cut() -> None:
    assert len(safe_repr("a" * 10**6)) == MAX_CHARS + 1
