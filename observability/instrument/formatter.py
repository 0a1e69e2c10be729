"""A `logging` record as a line: JSON for segments, the text line of Ray Serve 1.3 for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, BaseJsonFormatter

from observability.instrument.clock import next_time
from observability.instrument.context import request_context
from observability.instrument.encode import MAX_CHARS, encode_line, encode_tail, safe_repr

TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
"""Ray's own line; the tab is Ray's too (`ray_constants.py`, Ray 1.3)."""

_STANDARD = frozenset(RESERVED_ATTRS) | {
    "message",
    "asctime",
    "color_message",  # uvicorn's
    "_ray_timestamp_ns",  # Ray's record factory's
}
_STANDARD_COUNT = len(logging.makeLogRecord({}).__dict__)
USUAL_THREADS = {"MainThread", "AsyncIO Thread: default", "handler"}
"""Where a backend's code runs when it starts no threads of its own: not worth a word."""


class JSONLines(BaseJsonFormatter):
    """Formats records as `observability.fields` has them, one line of bytes each.

    Args:
        static: fields that all records of this process have.
    """

    def __init__(self, static: Mapping[str, Any]) -> None:
        super().__init__()
        self._tail = encode_tail(static)

    def format(self, record: logging.LogRecord) -> str:
        """The line as text, without its newline (`logging`)."""
        return self.format_line(record).decode().rstrip("\n")

    def format_line(self, record: logging.LogRecord) -> bytes:
        """The line. Never raises: what can't be told is told as its `repr`."""
        return encode_line(self._collect(record), self._tail)

    def _collect(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "time": next_time(),
            "kind": "log",
            "level": record.levelname,
            "logger": record.name,
            "message": read_message(record),
        }
        if record.lineno:
            fields["file"] = record.filename
            fields["line"] = record.lineno
        if record.threadName not in USUAL_THREADS:
            fields["thread"] = record.threadName
        context = request_context.get()
        if context is not None:
            fields["endpoint"] = context.endpoint
            if context.route:
                fields["route"] = context.route
            fields["request_id"] = context.request_id
            if context.trace_id:
                fields["trace_id"] = context.trace_id
            if context.span_id:
                fields["span_id"] = context.span_id
        exception = read_exception(record, self)
        if exception:
            fields["exception"] = exception
        extra = _read_extra(record)
        if extra:
            fields["extra"] = extra
        _cut(fields)
        return fields


class TextLines(logging.Formatter):
    r"""The line of Ray Serve 1.3: Ray's own, then ` component=serve backend=... replica=...`.

    A newline in a message is written as `\n`, and a traceback is indented: nothing that is said
    looks like another line.
    """

    def __init__(self, static: Mapping[str, Any]) -> None:
        super().__init__(TEXT_FORMAT)
        # Controller and ingress have none: Ray Serve 1.3 left their lines as they were.
        named = ("component", "backend", "replica") if "replica" in static else ()
        self._suffix = "".join(f" {name}={_one_line(str(static[name]))}" for name in named)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an exception's lines below it."""
        # Not through record.message: other handlers read what is stored there.
        line = (
            f"{self.formatTime(record)}\t{record.levelname} {record.filename}:{record.lineno} -- "
            f"{_one_line(read_message(record))}{self._suffix}"
        )
        exception = read_exception(record, self)
        if exception:
            line += "\n" + "\n".join(f"    {step}" for step in exception.splitlines())
        return line


def read_message(record: logging.LogRecord) -> str:
    """The message with its arguments; when they do not fit, both as they are."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments run foreign code, and may not fit
        return (
            f"{safe_repr(record.msg)} % {safe_repr(record.args)} "
            f"(not formatted: {type(error).__name__})"
        )


def read_exception(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    """The traceback and the stack that were asked for, or ""."""
    parts = []
    if record.exc_info:
        info = record.exc_info
        try:
            parts.append("" if info[0] is None else formatter.formatException(info))
        except Exception as error:  # noqa: BLE001 - an exception's __str__ is foreign code
            parts.append(f"{safe_repr(info[1])} (its traceback raised {type(error).__name__})")
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(part for part in parts if part)


def _read_extra(record: logging.LogRecord) -> dict[str, Any] | None:
    attributes = record.__dict__
    if len(attributes) <= _STANDARD_COUNT:  # `extra` would have added to them
        return None
    return {name: value for name, value in attributes.items() if name not in _STANDARD} or None


def _cut(fields: dict[str, Any]) -> None:
    """Long texts lose their middle: of an error its end says most, of a message its beginning."""
    for name in ("message", "exception"):
        text = fields.get(name)
        if text is not None and len(text) > MAX_CHARS:
            half = MAX_CHARS // 2
            fields[name] = f"{text[:half]} … {text[-half:]}"
            fields["cut_chars"] = fields.get("cut_chars", 0) + len(text) - MAX_CHARS


_CONTROL = {
    code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160)) if chr(code) != "\t"
}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def _one_line(text: str) -> str:
    """The text with its control characters written out."""
    return text if text.isprintable() else text.translate(_CONTROL)
