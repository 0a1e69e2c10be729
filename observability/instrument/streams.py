"""`print()` and what is written to sys.stderr, as records, without taking it from the terminal."""

from __future__ import annotations

import logging
import threading
from typing import Any, TextIO

MAX_LINE_CHARS = 65_536
"""A line that does not end is told in parts of this length."""


class TeeStream:
    """A text stream that also tells each whole line to a logger.

    Everything goes to the original stream as it comes. Lines are put together for each thread, so
    that those of two requests do not mix.

    Args:
        stream: the original.
        tell: called with each line that is not empty, in the thread that wrote it.
    """

    def __init__(self, stream: TextIO, tell: TellLine) -> None:
        self._stream = stream
        self._tell = tell
        self._local = threading.local()

    def write(self, text: str) -> int:
        """Write on, and tell the lines that are complete."""
        done = self._stream.write(text)
        # What the handlers print while they are told something would come back here for ever.
        if text and not getattr(self._local, "is_telling", False):
            self._collect(text)
        return done

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the original. A line that has not ended goes on."""
        self._stream.flush()

    def tell_rest(self) -> None:
        """Tell what was written by this thread without a newline at its end."""
        self._collect("\n")

    def _collect(self, text: str) -> None:
        local = self._local
        pending = getattr(local, "pending", "") + text
        *lines, rest = pending.split("\n")
        parts = len(rest) // MAX_LINE_CHARS * MAX_LINE_CHARS
        lines += [rest[i : i + MAX_LINE_CHARS] for i in range(0, parts, MAX_LINE_CHARS)]
        rest = rest[parts:]
        local.pending = rest
        local.is_telling = True
        try:
            for line in lines:
                if line.strip():
                    self._tell(line)
        finally:
            local.is_telling = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> TeeStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.flush()


class TellLine:
    """Makes a record of a line and hands it to a handler, past all loggers.

    Args:
        handler: takes the records.
        name: `stdout` or `stderr`.
        level: of the records.
    """

    def __init__(self, handler: logging.Handler, name: str, level: int) -> None:
        self._handler = handler
        self._name = name
        self._level = level

    def __call__(self, line: str) -> None:
        """Tell a line."""
        if self._level >= self._handler.level:
            record = logging.LogRecord(self._name, self._level, "", 0, line, None, None)
            self._handler.handle(record)
