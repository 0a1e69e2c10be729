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
    lengths = []
    for name, value in headers:
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise BadAnswerError(
                f"The answer's header {name!r}: {value!r} is not bytes, as ASGI wants it."
            )
        if not _TOKEN.fullmatch(name):
            raise BadAnswerError(
                f"The answer has a header named {name!r}. Expected letters, digits and -."
            )
        if _CONTROL.search(value):
            raise BadAnswerError(
                f"The answer's header {name.decode()!r} has the value {value!r}: control "
                "characters can't be in one. Quote what comes from outside."
            )
        if name.lower() == b"content-length":
            lengths.append(value)
    if len(set(lengths)) > 1 or not all(map(bytes.isdigit, lengths)):
        raise BadAnswerError(
            f"The answer's header 'content-length' is {b', '.join(lengths).decode()!r}. Expected "
            "one number."
        )


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
