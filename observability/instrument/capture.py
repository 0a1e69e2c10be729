"""Takes up all that a process says: loggers, warnings, print(), exceptions nobody caught.

Ray's worker has a handler on its `ray` logger that writes the bare message, and none on the root
logger, where a user's `getLogger(__name__).info()` would vanish.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from observability.instrument.context import request_context
from observability.instrument.echo import Echo
from observability.instrument.encode import encode_tail
from observability.instrument.formatter import JSONLines, TextLines, read_message
from observability.instrument.gap import encode_gap
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.origin import set_origin
from observability.instrument.segments import SegmentWriter
from observability.instrument.streams import TeeStream, TellLine

RAY_LOGGER = "ray"
STREAM_NAMES = ("stdout", "stderr")

logger = logging.getLogger("ray.serve")


class RecordHandler(logging.Handler):
    """Appends each record to the segments and, unless told otherwise, to the copy on stderr.

    Args:
        writer: of the segments.
        echo: the copy.
    """

    def __init__(self, writer: SegmentWriter, echo: Echo) -> None:
        super().__init__()
        self.lines: JSONLines
        self.copies: JSONLines | TextLines | None = None
        self._writer = writer
        self._echo = echo

    def handle(self, record: logging.LogRecord) -> bool:
        """Take one record, without logging's lock: it costs, and a finaliser could hang on it."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        try:
            message = read_message(record)
            line = self.lines.format_line(record, message)
            self._writer.append(line)
            self._copy(record, message, line)
        except Exception:  # noqa: BLE001 - a backend must not fail because it said something
            self._writer.dropped += 1

    def _copy(self, record: logging.LogRecord, message: str, line: bytes) -> None:
        copies = self.copies
        if copies is None or record.name in STREAM_NAMES:  # those are on their stream already
            return
        if isinstance(copies, TextLines):
            self._echo.append(copies.format_line(record, message))
        else:
            self._echo.append(line.decode().rstrip("\n"))
        if record.levelno >= logging.WARNING:
            self._echo.flush()


class Capture:
    """What is installed in a process.

    Args:
        writer: where the records go.
        static: fields of all records of this process.
        config: level, copy on stderr, extra fields.
    """

    def __init__(
        self, writer: SegmentWriter, static: Mapping[str, Any], config: LoggingConfig
    ) -> None:
        self._writer = writer
        self._static = dict(static)
        self._echo = Echo()
        self._handler = RecordHandler(writer, self._echo)
        writer.also_flush = self._echo.flush
        self._streams: list[tuple[str, TeeStream, Any]] = []
        self._undo: list[Callable[[], None]] = []
        for target in (logging.getLogger(), logging.getLogger(RAY_LOGGER)):
            self._remember(target)
        self.configure(config)

    @property
    def counts(self) -> tuple[int, int]:
        """(records written, records dropped) by this process so far."""
        return self._writer.written, self._writer.dropped

    def configure(self, config: LoggingConfig) -> None:
        """Take another configuration; the next record follows it."""
        level = config.level_number
        self._config = config
        self._set_lines()
        self._handler.setLevel(level)
        self._writer.retention = config.retention
        for name in (None, RAY_LOGGER):
            logging.getLogger(name).setLevel(level)
        self.attach()

    def attach(self) -> None:
        """Put the handler where it belongs, also after user code has cleared the loggers."""
        ray_logger = logging.getLogger(RAY_LOGGER)
        ray_logger.propagate = False
        for target in (logging.getLogger(), ray_logger):
            others = [h for h in target.handlers if h is not self._handler and not _is_rays(h)]
            target.handlers = [*others, self._handler]

    def take_streams(self) -> None:
        """Tell what is printed."""
        for name, level in zip(STREAM_NAMES, (logging.INFO, logging.WARNING), strict=True):
            before = getattr(sys, name)
            tee = TeeStream(before, TellLine(self._handler, name, level))
            setattr(sys, name, tee)
            self._streams.append((name, tee, before))

    def take_hooks(self) -> None:
        """Tell warnings and exceptions that nobody caught."""
        logging.captureWarnings(True)
        self._undo.append(lambda: logging.captureWarnings(False))
        for module, name, hook in (
            (sys, "excepthook", _tell_exception),
            (threading, "excepthook", _tell_thread_exception),
            (sys, "unraisablehook", _tell_unraisable),
        ):
            self._undo.append(functools.partial(setattr, module, name, getattr(module, name)))
            setattr(module, name, hook)

    def after_fork(self) -> None:
        """In a child: go on with segments of its own."""
        self._static["pid"] = os.getpid()
        self._set_lines()
        self._writer.after_fork()
        self._echo.after_fork()

    def end(self) -> None:
        """Tell unended lines and write everything, and each record at once from now on.

        For a process that is killed next: what is said until then is in the segments too.
        """
        for _, tee, _ in self._streams:
            with contextlib.suppress(Exception):  # at the end of a process all may be closed
                tee.tell_rest()
        self._writer.write_through()
        self._echo.write_through()
        _flush_all(self._find_others())

    def close(self) -> None:
        """Tell unended lines, write everything, and let go of all that was taken."""
        for name, tee, before in self._streams:
            with contextlib.suppress(Exception):  # at the end of a process all may be closed
                tee.tell_rest()
            if getattr(sys, name) is tee:
                setattr(sys, name, before)
        self._streams.clear()
        others = self._find_others()
        while self._undo:
            self._undo.pop()()
        self._writer.close()
        self._echo.flush()
        _flush_all(others)
        set_origin({})

    def _find_others(self) -> list[logging.Handler]:
        """User code's handlers."""
        targets = (logging.getLogger(), logging.getLogger(RAY_LOGGER))
        handlers = {handler for target in targets for handler in target.handlers}
        return [h for h in handlers if h is not self._handler and not _is_rays(h)]

    def _set_lines(self) -> None:
        config = self._config
        fields = {**self._static, **config.extra_fields}
        set_origin(fields)
        self._handler.lines = JSONLines(fields)
        self._writer.encode_gap = functools.partial(encode_gap, tail=encode_tail(fields))
        self._handler.copies = None
        if config.stderr:
            is_json = config.encoding == "JSON"
            self._handler.copies = self._handler.lines if is_json else TextLines(self._static)

    def _remember(self, target: logging.Logger) -> None:
        handlers, level, propagate = list(target.handlers), target.level, target.propagate

        def restore() -> None:
            target.handlers, target.propagate = handlers, propagate
            target.setLevel(level)

        self._undo.append(restore)


def install(
    writer: SegmentWriter, static: Mapping[str, Any], config: LoggingConfig, *, streams: bool
) -> Capture:
    """Capture all that this process says from now on.

    Args:
        writer: where the records go; started here.
        static: fields of all records of this process: component, backend, replica, node, pid.
        config: level, copy on stderr, extra fields.
        streams: also what is printed and what nobody caught: for processes of user code.
    """
    capture = Capture(writer, static, config)
    writer.start()
    os.register_at_fork(after_in_child=capture.after_fork)
    if streams:
        capture.take_streams()
        capture.take_hooks()
    return capture


def _flush_all(handlers: list[logging.Handler]) -> None:
    for handler in handlers:
        with contextlib.suppress(Exception):  # foreign code
            handler.flush()


def _is_rays(handler: logging.Handler) -> bool:
    return type(handler).__module__.startswith("ray.") and isinstance(
        handler, logging.StreamHandler
    )


def _tell_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    logger.critical("Uncaught exception", exc_info=(kind, error, trace))


def _tell_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else "a thread"
    error = args.exc_type() if args.exc_value is None else args.exc_value
    token = request_context.set(getattr(error, "tagtrail_request", request_context.get()))
    logger.error(
        "Uncaught exception in thread %s", name, exc_info=(args.exc_type, error, args.exc_traceback)
    )
    request_context.reset(token)


def _tell_unraisable(args: sys.UnraisableHookArgs) -> None:
    error = args.exc_type() if args.exc_value is None else args.exc_value
    logger.error(
        "%s: %r",
        args.err_msg or "Exception ignored in",
        args.object,
        exc_info=(args.exc_type, error, args.exc_traceback),
    )
