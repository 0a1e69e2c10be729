"""Text for people's terminals: one line, and nothing in it that steers the terminal. Pure."""

from __future__ import annotations

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\t"}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r"}
# Line and paragraph separators, and marks that turn the direction of writing.
_CONTROL |= {
    code: f"\\u{code:04x}"
    for code in (0x2028, 0x2029, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def one_line(text: str) -> str:
    """The text with its control characters written out."""
    return text if text.isprintable() else text.translate(_CONTROL)
