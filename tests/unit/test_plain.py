"""Text for terminals."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.plain import one_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Some info!", "Some info!"),
        ("naïve 漢字 🎉", "naïve 漢字 🎉"),
        ("a\tb", "a\tb"),
        ("a\nb\r\nc", "a\\nb\\r\\nc"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x00\x7f\x85", "\\x00\\x7f\\x85"),
        ("a\u2028b\u202ec", "a\\u2028b\\u202ec"),
    ],
)
def test_what_steers_a_terminal_is_written_out(text: str, expected: str) -> None:
    assert one_line(text) == expected


@given(st.text())
def test_any_text_is_one_line_without_control_characters(text: str) -> None:
    line = one_line(text)
    assert line.splitlines() == ([line] if line else [])
    assert not [char for char in line if unicodedata.category(char) == "Cc" and char != "\t"]
