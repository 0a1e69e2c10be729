"""The headers of W3C Trace Context, read strictly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.traceparent import (
    MAX_STATE_CHARS,
    TRACEPARENT_PATTERN,
    TraceParent,
    format_traceparent,
    join_tracestate,
    parse_traceparent,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

hex_digits = st.sampled_from("0123456789abcdef")


@pytest.mark.parametrize(
    ("flags", "is_sampled"), [("01", True), ("00", False), ("03", True), ("fe", False)]
)
def test_a_header_names_the_caller(flags: str, is_sampled: bool) -> None:
    assert parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == TraceParent(TRACE, SPAN, is_sampled)


def test_of_a_later_version_the_part_that_is_known_counts() -> None:
    assert parse_traceparent(f"01-{TRACE}-{SPAN}-01-more") == TraceParent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-\u06611",
    ],
)
def test_what_is_not_well_formed_names_nobody(text: str) -> None:
    assert parse_traceparent(text) is None


@given(
    st.text(hex_digits, min_size=32, max_size=32).filter(lambda t: set(t) != {"0"}),
    st.text(hex_digits, min_size=16, max_size=16).filter(lambda t: set(t) != {"0"}),
    st.booleans(),
)
def test_what_is_written_is_read_back(trace_id: str, span_id: str, is_sampled: bool) -> None:
    header = format_traceparent(trace_id, span_id, is_sampled)
    assert parse_traceparent(header) == (trace_id, span_id, is_sampled)
    assert re.fullmatch(TRACEPARENT_PATTERN, header)


@pytest.mark.parametrize(
    ("values", "joined"),
    [
        ([], ""),
        (["a=1"], "a=1"),
        (["a=1", "b=2,c=3"], "a=1,b=2,c=3"),
        (["a=" + "x" * MAX_STATE_CHARS], ""),
        (["a=\xe4"], ""),
        (["a=1\r\nX-Forged: 1"], ""),
    ],
)
def test_states_are_joined_or_left_out(values: list[str], joined: str) -> None:
    assert join_tracestate(values) == joined
