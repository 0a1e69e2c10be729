"""One record as one line of JSON. What JSON can't hold becomes its `repr`; nothing is ever lost.

Control characters are escaped by JSON, so no value makes a second line or another field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_CHARS = 65_536
"""Longer texts are cut."""

MAX_LINE_BYTES = 250_000
"""Longer lines are cut: Loki takes 256 KB."""

_SHORT_CHARS = 12_000
"""What is left of each field of such a line; six bytes a character at most."""

_MAX_DEPTH = 8
_MAX_ITEMS = 1_000
_MAX_BITS = 1_023
"""Of an integer: a larger one is not even a float to who reads it."""


def cut_text(text: str, chars: int) -> str:
    """Long texts lose their middle: of an error its end says most, of a message its beginning."""
    half = chars // 2
    return text if len(text) <= chars else f"{text[:half]} … {text[len(text) - half :]}"


def safe_repr(value: object) -> str:
    """`repr`, also of what has none that works."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise all
        return f"<{type(value).__name__}, its repr raised {type(error).__name__}>"
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}…"


_encoder = msgspec.json.Encoder(enc_hook=safe_repr)
encode_json = _encoder.encode


def encode_tail(static: Mapping[str, Any]) -> bytes:
    """The end of every line of a process: fields that never change, encoded once.

    Args:
        static: at least one field.
    """
    return b"," + encode_safely(dict(static))[1:] + b"\n"


def encode_line(record: Any, tail: bytes, *, is_free: bool = False) -> bytes:
    """A record and its tail as a line.

    Args:
        record: a dictionary or a Struct with at least one field.
        tail: of `encode_tail`.
        is_free: it holds values of any type.
    """
    try:
        data = encode_json(record)
        # `null` may have been a NaN. A newline is from JSON that the user gave (msgspec.Raw).
        if is_free and (data.find(b"null") >= 0 or data.find(b"\n") >= 0):
            data = encode_safely(record)
    except Exception:  # noqa: BLE001 - whatever it is, the slow way knows how to say it
        data = encode_safely(record)
    if len(data) + len(tail) > MAX_LINE_BYTES:
        data = encode_safely(record, _SHORT_CHARS)
    return data[:-1] + tail


def encode_safely(record: Any, field_chars: int = MAX_LINE_BYTES) -> bytes:
    """As `encode_json`, for records that it refuses or that are too long.

    Args:
        record: a dictionary or a Struct.
        field_chars: most characters of each field.
    """
    given = _given(record) if isinstance(record, msgspec.Struct) else record
    plain, cut_chars = {}, 0
    for key, value in given.items():
        room = _Room(field_chars)
        plain[_text(key)] = _plain(value, room, 0)
        cut_chars += room.cut_chars
    if cut_chars and hasattr(record, "cut_chars"):
        plain["cut_chars"] = record.cut_chars + cut_chars
    return encode_json(plain)


def _given(record: msgspec.Struct) -> dict[str, Any]:
    """The fields that are not as they are by default: a field without a value is left out."""
    defaults = record.__struct_defaults__
    always = len(record.__struct_fields__) - len(defaults)
    return {
        name: value
        for number, (name, value) in enumerate(msgspec.structs.asdict(record).items())
        if number < always or value != defaults[number - always]
    }


class _Room:
    """What a field may still hold: objects that refer to each other have no end."""

    __slots__ = ("chars", "cut_chars", "items")

    def __init__(self, chars: int) -> None:
        self.chars = chars
        self.items = _MAX_ITEMS
        self.cut_chars = 0

    def take(self, text: str) -> str:
        """The text, or what fits of it."""
        kept = cut_text(text, self.chars)
        self.cut_chars += max(0, len(text) - self.chars)
        self.chars = max(0, self.chars - len(text))
        return kept

    def has_items(self, count: int) -> bool:
        """Whether it takes so many more items; they count from now on."""
        if count > self.items:
            return False
        self.items -= count
        return True


def _plain(value: Any, room: _Room, depth: int) -> Any:
    """The value without what `encode_json` refuses."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is int and value.bit_length() <= _MAX_BITS:
        return value
    if isinstance(value, str):
        return room.take(_text(value))
    if depth < _MAX_DEPTH and kind not in (int, float):
        try:
            if not isinstance(value, (dict, list, tuple)):  # a dataclass or a date, say
                return _plain(msgspec.to_builtins(value, enc_hook=safe_repr), room, depth + 1)
            if room.has_items(len(value)):
                return _plain_items(value, room, depth + 1)
        except Exception:  # noqa: BLE001 - without an end, or a subclass with methods of its own
            pass
    return room.take(_text(safe_repr(value))) if room.chars else "…"


def _plain_items(value: Any, room: _Room, depth: int) -> Any:
    if not isinstance(value, dict):
        return [_plain(item, room, depth) for item in list(value)]
    found: dict[str, Any] = {}
    for key, item in list(value.items()):
        if not room.chars:
            found["…"] = f"{len(value) - len(found)} more"
            break
        found[room.take(_text(key))] = _plain(item, room, depth)
    return found


def _text(value: object) -> str:
    """Text that UTF-8 can hold: half a surrogate pair is written as its escape."""
    text = value if isinstance(value, str) else safe_repr(value)
    return str.encode(text, "utf-8", "backslashreplace").decode()
