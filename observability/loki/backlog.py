"""Lines on their way: a bounded queue that knows what became of every line."""

from __future__ import annotations

import threading
from collections import Counter, deque
from itertools import islice

QUEUE_FULL = "queue_full"
CLOSED = "closed"


class Backlog:
    """Any thread may put a line in, one takes them out. What is taken counts until it is settled.

    Args:
        size_lines: most lines.
        size_bytes: most bytes of them.

    Attributes:
        sent: lines that arrived.
        dropped: lines that did not, by reason.
        is_closed: nothing is taken in any more.
    """

    def __init__(self, size_lines: int, size_bytes: int) -> None:
        self._size_lines = size_lines
        self._size_bytes = size_bytes
        self.empty()

    def empty(self) -> None:
        """Begin anew, with locks of its own: in a child of a fork, all of it is the parent's."""
        # Reentrant: the garbage collector may run a finaliser that logs while it is held.
        self._lock = threading.RLock()
        self._settled = threading.Condition(self._lock)
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._taken = 0
        self._accepted = 0
        self.sent = 0
        self.dropped: Counter[str] = Counter()
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._lines)

    def put(self, line: bytes) -> bool:
        """Take a line in, or count it as dropped; whether it was taken. Never waits for long."""
        with self._lock:
            if self.is_closed:
                self.dropped[CLOSED] += 1
            elif len(self._lines) >= self._size_lines or self._bytes + len(line) > self._size_bytes:
                self.dropped[QUEUE_FULL] += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
                self._accepted += 1
                return True
            return False

    def drop(self, reason: str) -> None:
        """Count a line that never became one."""
        with self._lock:
            self.dropped[reason] += 1

    def take(self, most_lines: int, most_bytes: int) -> list[bytes]:
        """The next lines; at least one, if there is any. They stay until `settle`."""
        with self._lock:
            batch: list[bytes] = []
            size = 0
            for line in islice(self._lines, most_lines):
                size += len(line)
                if batch and size > most_bytes:
                    break
                batch.append(line)
            self._taken = len(batch)
            return batch

    def settle(self, reason: str = "") -> None:
        """What was taken has arrived, or was dropped for a reason."""
        with self._lock:
            self._settle(self._taken, reason)  # none, if it was closed meanwhile

    def wait_settled(self, timeout_s: float) -> None:
        """Wait until all that is in now has left, for so long."""
        with self._settled:
            target = self._accepted
            self._settled.wait_for(lambda: self._accepted - len(self._lines) >= target, timeout_s)

    def close(self) -> None:
        """Take nothing in any more, and drop what is left."""
        with self._lock:
            self.is_closed = True
            self._settle(len(self._lines), CLOSED)

    def _settle(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._bytes -= len(self._lines.popleft())
        self._taken = 0
        if reason and count:
            self.dropped[reason] += count
        elif not reason:
            self.sent += count
        self._settled.notify_all()
