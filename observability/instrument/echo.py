"""The copy of log lines on stderr: collected, and written many at once.

A write of each line would cost more than all else that is done for it. Warnings and errors are
written at once, with what waits before them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque

MAX_WAITING = 10_000
"""Lines kept while stderr takes none; then the oldest go. The segments have them."""


class Echo:
    """Writes lines to the process's stderr, past the stream that is captured. Never raises."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_WAITING)
        self._lock = threading.RLock()
        self._is_direct = False

    def append(self, line: str) -> None:
        """Take a line, without its newline."""
        self._lines.append(line)
        if self._is_direct:
            self.flush()

    def after_fork(self) -> None:
        """In a child: the parent's lines are not this process's, and it has no timer."""
        self._lines.clear()
        self._lock = threading.RLock()
        self._is_direct = True

    def write_through(self) -> None:
        """Write what waits, and each line at once from now on: the process is about to end."""
        self._is_direct = True
        self.flush()

    def flush(self) -> None:
        """Write all that waits."""
        if not self._lines:
            return
        with self._lock:
            lines: list[str] = []
            with contextlib.suppress(IndexError):  # a finaliser that warns may write some of them
                for _ in range(len(self._lines)):
                    lines.append(self._lines.popleft())
            text = "".join([f"{line}\n" for line in lines])
            stream = sys.__stderr__
            try:
                assert stream is not None  # a process may have none
                stream.flush()
                rest = memoryview(text.encode("utf-8", "backslashreplace"))
                while rest:
                    rest = rest[os.write(stream.fileno(), rest) :]
            except (AssertionError, OSError, ValueError):
                pass  # closed, or nobody reads it any more; the segments have the lines
