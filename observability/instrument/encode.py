"""One record as one line of JSON. What JSON can't hold becomes its `repr`; nothing is ever lost.

Control characters are escaped by JSON, so no value makes a second line or another field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MAX_CHARS = 65_536
"""Longer texts are cut: Loki takes lines of 256 KB."""

_MAX_DEPTH = 8
_MAX_ITEMS = 1_000


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


def encode_line(record: Any, tail: bytes) -> bytes:
    """A record, a dictionary or a Struct with at least one field, and its tail as a line."""
    try:
        return encode_json(record)[:-1] + tail
    except Exception:  # noqa: BLE001 - whatever it is, the slow way knows how to say it
        return encode_safely(record)[:-1] + tail


def encode_safely(record: Any) -> bytes:
    """As `encode_json`, for records that it refuses."""
    if isinstance(record, msgspec.Struct):
        record = _given(record)
    return encode_json({_text(key): _plain(value, 0) for key, value in record.items()})


def _given(record: msgspec.Struct) -> dict[str, Any]:
    """The fields that are not as they are by default: a field without a value is left out."""
    defaults = record.__struct_defaults__
    always = len(record.__struct_fields__) - len(defaults)
    return {
        name: value
        for number, (name, value) in enumerate(msgspec.structs.asdict(record).items())
        if number < always or value != defaults[number - always]
    }


def _plain(value: Any, depth: int) -> Any:
    """The value without what `encode_json` refuses."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if depth < _MAX_DEPTH:
        if isinstance(value, dict) and len(value) <= _MAX_ITEMS:
            return {_text(k): _plain(v, depth + 1) for k, v in list(value.items())}
        if isinstance(value, (list, tuple)) and len(value) <= _MAX_ITEMS:
            return [_plain(item, depth + 1) for item in list(value)]
    return _text(safe_repr(value))


def _text(value: object) -> str:
    """Text that UTF-8 can hold: half a surrogate pair is written as its escape."""
    text = (
        value
        if type(value) is str
        else safe_repr(value)
        if not isinstance(value, str)
        else str(value)
    )
    return text.encode("utf-8", "backslashreplace").decode()
