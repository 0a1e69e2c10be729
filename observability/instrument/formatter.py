"""A `logging` record as a line: JSON for segments, the text line of Ray Serve 1.3 for people."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from pythonjsonlogger.core import RESERVED_ATTRS, BaseJsonFormatter

from observability.instrument.clock import next_time
from observability.instrument.context import RequestContext, request_context
from observability.instrument.encode import (
    MAX_CHARS,
    cut_text,
    encode_line,
    encode_tail,
    safe_repr,
)
from observability.instrument.plain import one_line

RAY_TIME = "_ray_timestamp_ns"
"""Ray's record factory adds it."""
_STANDARD = frozenset(RESERVED_ATTRS) | {
    "message",
    "asctime",
    "color_message",  # uvicorn's
    RAY_TIME,
}
_NO_REQUEST = RequestContext("")
# Not makeLogRecord's: it asks the record factory, which user code may replace.
_STANDARD_COUNT = len(logging.LogRecord("", 0, "", 0, "", None, None).__dict__)
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}
"""Not the record's own name: `logging.addLevelName` and other handlers put colours into it."""
USUAL_THREADS = {"MainThread", "AsyncIO Thread: default", "handler"}
"""Where a backend's code runs when it starts no threads of its own: not worth a word."""


class LogLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields of a log record, as `observability.fields` has them. Defaults are left out.

    A Struct, not a dictionary: it is made and encoded in half the time.
    """

    time: str
    kind: str
    level: str
    logger: str
    message: str
    file: str = ""
    line: int = 0
    thread: str = ""
    endpoint: str = ""
    route: str = ""
    request_id: str = ""
    batch_ids: tuple[str, ...] = ()
    trace_id: str = ""
    span_id: str = ""
    exception: str = ""
    extra: dict[str, Any] | None = None
    cut_chars: int = 0
    processing_ms: float = -1.0
    retries: int = 0
    died_by: str = ""
    dropped: int = 0
    dropped_since: str = ""


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
        return self.format_line(record, read_message(record)).decode().rstrip("\n")

    def format_line(self, record: logging.LogRecord, message: str) -> bytes:
        """The line. Never raises: what can't be told is told as its `repr`."""
        thread = record.threadName
        context = request_context.get()
        if context is None:
            context = _NO_REQUEST
        line = LogLine(
            next_time(),
            "log",
            _LEVELS.get(record.levelno) or record.levelname,
            record.name,
            message,
            record.filename if record.lineno else "",
            record.lineno,
            "" if thread is None or thread in USUAL_THREADS else thread,
            context.endpoint,
            context.route,
            context.request_id,
            context.batch_ids,
            context.trace_id,
            context.span_id,
        )
        if record.exc_info or record.exc_text or record.stack_info:
            line.exception = read_exception(record, self)
        given = record.__dict__
        if len(given) > _STANDARD_COUNT + (RAY_TIME in given):  # `extra` has added to them
            line.extra = _read_extra(record)
        if len(message) > MAX_CHARS or len(line.exception) > MAX_CHARS:
            line.cut_chars = sum(max(0, len(t) - MAX_CHARS) for t in (message, line.exception))
            line.message = cut_text(message, MAX_CHARS)
            line.exception = cut_text(line.exception, MAX_CHARS)
        return encode_line(line, self._tail, is_free=line.extra is not None)


class TextLines(logging.Formatter):
    r"""The line of Ray Serve 1.3: Ray's own, then ` component=serve backend=... replica=...`.

    A newline in a message is written as `\n`, and a traceback is indented: nothing that is said
    looks like another line.
    """

    def __init__(self, static: Mapping[str, Any]) -> None:
        super().__init__()
        # Controller and ingress have none: Ray Serve 1.3 left their lines as they were.
        named = ("component", "backend", "replica") if "replica" in static else ()
        self._suffix = "".join(f" {name}={one_line(str(static[name]))}" for name in named)
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and an exception's lines below it (`logging`)."""
        return self.format_line(record, read_message(record))

    def format_line(self, record: logging.LogRecord, message: str) -> str:
        """The line: `%(asctime)s<TAB>%(levelname)s %(filename)s:%(lineno)s -- %(message)s`, suffix.

        The tab is Ray's (`ray_constants.py`, Ray 1.3).
        """
        second, text = self._second
        created = int(record.created)
        if created != second:
            text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created))
            self._second = (created, text)
        line = (
            f"{text},{int(record.msecs):03d}\t{record.levelname} {record.filename}:{record.lineno} "
            f"-- {one_line(message)}{self._suffix}"
        )
        if record.exc_info or record.exc_text or record.stack_info:
            steps = read_exception(record, self).splitlines()
            line = "\n".join([line, *(f"    {one_line(step)}" for step in steps)])
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
            what = info[1] if isinstance(info, tuple) else info
            parts.append(f"{safe_repr(what)} (its traceback raised {type(error).__name__})")
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(part for part in parts if part)


def _read_extra(record: logging.LogRecord) -> dict[str, Any] | None:
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD} or None
