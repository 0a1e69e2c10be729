"""A `logging` handler that pushes records to Loki by itself: for processes without an agent.

Who logs makes a line and puts it into a bounded queue; all else happens in a thread. The line is
the record that the segments have, and its labels and metadata are those that an agent gives it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from observability.instrument.formatter import JSONLines, read_message
from observability.instrument.origin import read_origin
from observability.loki.address import parse_address
from observability.loki.backlog import Backlog
from observability.loki.delivery import Delivery
from observability.loki.sender import FAILED, BatchLimits, Sender, is_sender
from observability.loki.words import LABELS

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class PushHandler(logging.Handler):
    """Pushes records to a Loki, or to what takes its push API.

    Logging never waits for the network: what does not fit into the queue is dropped and counted.
    Each record is sent until Loki has taken it or refused it for good, so one whose answer was lost
    is sent twice; it is then one entry in Loki. A formatter that is set changes nothing: the form
    of the lines is fixed.

    The thread begins with the first record. A child made by `os.fork` begins with an empty queue
    and a thread of its own; Ray's workers do not fork.

    Args:
        url: address of the Loki, `http://[NAME:PASSWORD@]HOST:3100`, with the path
            `/loki/api/v1/push` or without.
        labels: of all records, beside `level` and, in a backend, `component` and `backend`.
            `job` is "serve" in a backend and "python" elsewhere, unless given here; what
            `tagtrail logs --loki` finds has "serve".
        batch_records: most records of one request.
        batch_bytes: most bytes of their lines; one longer line goes alone.
        flush_s: longest wait for a batch to fill, seconds.
        queue_records: most records that wait, those being sent included.
        queue_bytes: most bytes of their lines.
        tenant: for a Loki of several tenants (`X-Scope-OrgID`).
        timeout_s: longest wait for an answer, seconds.
        close_s: longest wait in `close`, and in `flush` when it is told no other, seconds.

    Raises:
        ValueError: the address is none, a label's name is one that Loki refuses or that records
            have, or a limit is not positive.
    """

    def __init__(
        self,
        url: str,
        labels: Mapping[str, str] | None = None,
        *,
        batch_records: int = 1_000,
        batch_bytes: int = 1024 * 1024,
        flush_s: float = 1.0,
        queue_records: int = 10_000,
        queue_bytes: int = 64 * 1024 * 1024,
        tenant: str | None = None,
        timeout_s: float = 10.0,
        close_s: float = 5.0,
    ) -> None:
        address = parse_address(url)
        _check_labels(labels or {})
        _check_positive(
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            flush_s=flush_s,
            queue_records=queue_records,
            queue_bytes=queue_bytes,
            timeout_s=timeout_s,
            close_s=close_s,
        )
        super().__init__()
        self._delivery = Delivery(address, labels or {}, tenant, timeout_s)
        self._limits = BatchLimits(min(batch_records, queue_records), batch_bytes, flush_s)
        self._close_s = close_s
        self._backlog = Backlog(queue_records, queue_bytes)
        self._starting = threading.RLock()
        self._sender: Sender | None = None
        self._is_closed = False
        self._lines: tuple[Mapping[str, Any], JSONLines] | None = None
        os.register_at_fork(after_in_child=_only_while_alive(self))

    @property
    def sent(self) -> int:
        """Records that Loki has taken."""
        return self._backlog.sent

    @property
    def dropped(self) -> dict[str, int]:
        """Records that it has not and will not, by reason.

        `queue_full`: too many waited; `refused`: by Loki, 400 for instance; `closed`: the handler
        was, before they were sent; `failed`: no line could be made.
        """
        return dict(self._backlog.dropped)

    @property
    def waiting(self) -> int:
        """Records that are in the queue or being sent."""
        return len(self._backlog)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take one record, without logging's lock: `logging.shutdown` holds it while it flushes."""
        kept: Any = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Put one record into the queue, or count it as dropped. Never raises, never waits."""
        if is_sender():
            return
        try:
            line = self._find_lines().format_line(record, read_message(record))
            if self._backlog.put(line):
                sender = self._sender or self._start()
                if sender is not None and len(self._backlog) == self._limits.lines:
                    sender.wake()
        except Exception:  # noqa: BLE001 - a program must not fail because it said something
            self._backlog.drop(FAILED)

    def flush(self, timeout_s: float | None = None) -> None:
        """Send now, and wait until all that was logged so far has left; `waiting` tells.

        Args:
            timeout_s: longest wait, seconds. Default: `close_s`.
        """
        sender = self._sender
        if sender is not None and not is_sender():
            sender.wake()
            self._backlog.wait_settled(self._close_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Send what waits, for `close_s`, and drop the rest. `logging` does it at a program's end.

        A request that is under way then ends by itself, within `timeout_s`.
        """
        with self._starting:
            self._is_closed = True
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.stop(self._close_s)
        self._backlog.close()
        super().close()

    def after_fork(self) -> None:
        """In a child: what waits is the parent's to send, and the thread is not there."""
        self._starting = threading.RLock()
        self._sender = None
        self._lines = None
        self._backlog.empty()

    def _find_lines(self) -> JSONLines:
        origin = read_origin()
        known = self._lines
        if known is None or known[0] is not origin:
            known = self._lines = (origin, JSONLines(origin or {"pid": os.getpid()}))
        return known[1]

    def _start(self) -> Sender | None:
        with self._starting:
            # Closed since the line was put in: it is counted as dropped, and no thread is begun.
            if self._sender is None and not self._is_closed:
                delivery = self._delivery
                self._sender = Sender(
                    self._backlog, self._limits, delivery.encode, delivery.send, delivery.close
                )
                self._sender.start()
            return self._sender


def _only_while_alive(handler: PushHandler) -> Callable[[], None]:
    """What is called after a fork can't be taken back: it must not keep the handler."""
    reference = weakref.ref(handler)

    def run() -> None:
        alive = reference()
        if alive is not None:
            alive.after_fork()

    return run


def _check_labels(labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise ValueError(
                f"{name!r} can't be the name of a label. Expected letters, digits and underscores, "
                "no digit first."
            )
        if name in LABELS:
            raise ValueError(
                f"The label {name!r} can't be given: each record has its own. Taken are "
                f"{', '.join(LABELS)}."
            )
        if not isinstance(value, str):
            raise ValueError(f"The label {name!r} is {value!r}. Expected a text.")


def _check_positive(**limits: float) -> None:
    for name, value in limits.items():
        if not value > 0:
            raise ValueError(f"{name} is {value!r}. Expected a number above 0.")
