"""The headers `traceparent` and `tracestate`: read strictly, written. Pure.

Rules: W3C Trace Context, https://www.w3.org/TR/trace-context/, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_STATE_CHARS = 512
"""Longer `tracestate`s are not passed on; the standard asks for at least so many."""

TRACEPARENT_PATTERN = r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
"""The form of a `traceparent` of today's version; not every one of that form is valid."""

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED = 1


class TraceParent(NamedTuple):
    """What a caller says of itself.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: of the caller, 16 hexadecimal digits.
        is_sampled: whether the caller exports its span.
    """

    trace_id: str
    span_id: str
    is_sampled: bool


def parse_traceparent(text: str) -> TraceParent | None:
    """The caller that a header names; None when it is not well-formed.

    Of a version that is not known yet, the part that all versions share.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if rest is not None and version == "00":
        return None
    return TraceParent(trace_id, span_id, int(flags, 16) & _SAMPLED == _SAMPLED)


def format_traceparent(trace_id: str, span_id: str, is_sampled: bool) -> str:
    """The header that names a span."""
    return f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}"


def join_tracestate(values: Iterable[str]) -> str:
    """The values of all `tracestate` headers as one; "" when they can't be passed on."""
    text = ",".join(values)
    return text if len(text) <= MAX_STATE_CHARS and text.isascii() and text.isprintable() else ""
