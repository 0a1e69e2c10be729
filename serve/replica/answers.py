"""What a handler returned, as an HTTP answer. Pure.

None: empty, text/plain. bytes: as they are, text/plain. str: UTF-8, text/plain. All else: JSON,
indented by 2. (Ray Serve 1.3.0, `serve/http_util.py`.)
"""

from __future__ import annotations

import json
from typing import Any

TEXT = b"text/plain"
TEXT_UTF8 = b"text/plain; charset=utf-8"
JSON = b"application/json"


def encode_answer(value: object) -> tuple[bytes, bytes]:
    """(body, content type) of a value. TypeError when JSON can't hold it."""
    if value is None:
        return b"", TEXT
    if isinstance(value, bytes):
        return value, TEXT
    if isinstance(value, str):
        return value.encode(), TEXT_UTF8
    return json.dumps(value, default=_encode_other, indent=2).encode(), JSON


def _encode_other(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Exception):
        return str(value)
    if hasattr(value, "model_dump"):  # pydantic 2
        return value.model_dump()
    if hasattr(value, "__array__") and hasattr(value, "tolist"):  # numpy arrays and scalars
        return value.tolist()
    raise TypeError(
        f"A handler returned a {type(value).__name__}, which JSON can't hold. Return str, bytes, "
        "None, numbers, lists, dictionaries, numpy arrays, pydantic models, or a starlette "
        "Response."
    )
