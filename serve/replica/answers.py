"""What a handler returned, as an HTTP answer. Pure.

None: empty, text/plain. bytes: as they are, text/plain. str: UTF-8, text/plain. All else: JSON,
indented by 2. (Ray Serve 1.3.0, `serve/http_util.py`.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from serve.errors import RayServeException

TEXT = b"text/plain"
TEXT_UTF8 = b"text/plain; charset=utf-8"
JSON = b"application/json"


_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MAX_NAMES = 1000
_names: dict[bytes, bool] = {}
"""Names of headers that were seen to be well-formed, and whether they tell the answer's length."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


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
    """Refuse an answer's head that is no HTTP.

    Found out by the server it would be too late: HAProxy takes an answer that never began for a
    replica that died, and sends the request again.

    Raises:
        BadAnswerError: names the header, or the status.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise BadAnswerError(f"The answer has the status {status!r}. Expected 200 to 599.")
    length = None
    for name, value in headers:
        is_length = _names.get(name)
        if is_length is None:
            is_length = _check_name(name)
        if not isinstance(value, bytes) or (_CONTROL.search(value) and not is_length):
            raise BadAnswerError(
                f"The answer's header {name.decode()!r} has the value {value!r}. Expected bytes "
                "without control characters. Quote what comes from outside."
            )
        if is_length:
            if not value.isdigit() or length not in (None, value):
                raise BadAnswerError(
                    f"The answer's header 'content-length' is {value!r}"
                    f"{'' if length is None else f', and {length!r} before'}. Expected one number."
                )
            length = value


def _check_name(name: object) -> bool:
    """Whether a header of that name is the answer's length; remembered. BadAnswerError: no name."""
    if not isinstance(name, bytes) or not _TOKEN.fullmatch(name):
        raise BadAnswerError(
            f"The answer has a header named {name!r}. Expected bytes: letters, digits and -."
        )
    is_length = name.lower() == b"content-length"
    if len(_names) < _MAX_NAMES:
        _names[name] = is_length
    return is_length


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
