"""What a handler returned, as an HTTP answer. Pure.

None: empty, text/plain. bytes: as they are, text/plain. str: UTF-8, text/plain. All else: JSON,
indented by 2. (Ray Serve 1.3.0, `serve/http_util.py`.)
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterable
from typing import Any

from serve.errors import RayServeException

TEXT = b"text/plain"
TEXT_UTF8 = b"text/plain; charset=utf-8"
JSON = b"application/json"


_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_NAMES = 1000
_LENGTH, _CODING, _CONNECTION = b"content-length", b"transfer-encoding", b"connection"
_names: dict[bytes, tuple[bytes, bytes]] = {}
"""Of names that were seen to be well-formed: how a line with them begins, and the name in lower
case where it says how the answer is sent, else b""."""

_status_lines = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, http.client.responses.get(status, "").encode())
    for status in range(200, 600)
}


class BadAnswerError(RayServeException):
    """What a handler returned is no HTTP."""


def encode_answer(value: object) -> tuple[bytes, bytes]:
    """(body, content type) of a value. TypeError when JSON can't hold it."""
    if value is None:
        return b"", TEXT
    if isinstance(value, bytes):
        return value, TEXT
    if isinstance(value, str):
        return value.encode(), TEXT_UTF8
    return json.dumps(value, default=_encode_other, indent=2).encode(), JSON


def check_head(status: object, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse an answer's head that is no HTTP: BadAnswerError, as `encode_head`."""
    encode_head(status, headers)


def encode_head(
    status: Any, headers: Iterable[tuple[bytes, bytes]]
) -> tuple[bytes, int, bool, bool]:
    """An answer's head for the wire, checked.

    Found out by HAProxy it would be too late: it takes an answer that never began for a replica
    that died.

    Args:
        status: 200 to 599.
        headers: (name, value); names are sent in lower case.

    Returns:
        (status line and header lines, content-length or -1, whether they say that it is chunked,
        and that the connection ends with it). Of a length and chunks, what comes first counts.

    Raises:
        BadAnswerError: names the header, or the status.
    """
    line = _status_lines.get(status) if isinstance(status, int) else None
    if line is None:
        raise BadAnswerError(f"The answer has the status {status!r}. Expected 200 to 599.")
    length, is_chunked, closes = -1, False, False
    pieces = [line]
    for name, value in headers:
        start, role = _names.get(name) or _look_at(name)
        if not isinstance(value, bytes) or (_CONTROL.search(value) and role != _LENGTH):
            raise BadAnswerError(
                f"The answer's header {name.decode()!r} has the value {value!r}. Expected bytes "
                "without control characters. Quote what comes from outside."
            )
        if role:
            if role == _LENGTH:
                length = _read_length(value, length)
            elif role == _CODING:
                is_chunked = is_chunked or (length < 0 and value.lower() == b"chunked")
            else:
                closes = closes or b"close" in value.lower().replace(b" ", b"").split(b",")
        pieces += (start, value, b"\r\n")
    return b"".join(pieces), -1 if is_chunked else length, is_chunked, closes


def _read_length(value: bytes, before: int) -> int:
    if not value.isdigit() or before not in (-1, int(value)):
        raise BadAnswerError(
            f"The answer's header 'content-length' is {value!r}"
            f"{'' if before < 0 else f', and {before} before'}. Expected one number."
        )
    return int(value)


def _look_at(name: object) -> tuple[bytes, bytes]:
    """What `_names` has of a name; remembered. BadAnswerError: it is none."""
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        raise BadAnswerError(
            f"The answer has a header named {name!r}. Expected bytes: letters, digits and -."
        )
    lower = name.lower()
    known = lower + b": ", lower if lower in (_LENGTH, _CODING, _CONNECTION) else b""
    if len(_names) < _MAX_NAMES:
        _names[name] = known
    return known


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
