"""Spans on their way out: a bounded queue, and the thread that exports it.

Not OpenTelemetry's BatchSpanProcessor: that one wants finished span objects, made on the request's
path; it does not tell what it drops, and its shutdown may take half a minute. What waits here is
whatever was put in; it becomes spans in the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from observability.catalog import SPANS_DROPPED
from observability.instrument.numbers import Family, Labels
from observability.instrument.supervision import keep_thread_running

CLOSE_S = 2.0
"""Longest wait for the last spans to leave, seconds."""

THREAD_NAME = "tagtrail-spans"
EXPORT = "export of spans"

logger = logging.getLogger("ray.serve")


Export = Callable[[Sequence[Any]], tuple[int, str]]
"""Sends items out; gives how many spans were lost, and why ("" when none was)."""


class SpanQueue:
    """Exports in a thread of its own what is put in. Nothing that happens there reaches the caller.

    Args:
        export: sends one batch; it may block.
        size: most items that wait.
        batch_size: most items of a batch.
        delay_s: longest wait for a batch to fill, seconds.
        labels: values of the tags of the metric of dropped spans.
        close_export: called in the thread when it ends.
    """

    def __init__(
        self,
        export: Export,
        size: int,
        batch_size: int,
        delay_s: float,
        labels: Labels,
        close_export: Callable[[], None] = lambda: None,
    ) -> None:
        self._export = export
        self._size = size
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._labels = labels
        self._close_export = close_export
        self._items: deque[Any] = deque()
        self._wake = threading.Event()
        # Reentrant: the garbage collector may run a finaliser that ends a span while it is held.
        self._lock = threading.RLock()
        self._is_closing = False
        self._deadline = 0.0
        self._has_complained = False
        self.dropped = 0
        self._thread = threading.Thread(
            target=keep_thread_running, args=(EXPORT, self._run), name=THREAD_NAME, daemon=True
        )

    def start(self) -> None:
        """Export from now on."""
        self._thread.start()

    def put(self, item: Any) -> None:
        """Have an item exported, or count it as dropped. Never waits; from any thread."""
        items = self._items
        if len(items) >= self._size or self._is_closing:
            self._drop(1, f"{self._size} wait already, faster than they can be sent")
            return
        items.append(item)
        if len(items) >= self._batch_size and not self._wake.is_set():
            self._wake.set()

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Export what waits, for so long; what is left then is dropped."""
        self._deadline = time.monotonic() + limit_s
        self._is_closing = True
        self._wake.set()
        self._thread.join(limit_s)
        with self._lock:
            self.dropped += len(self._items)
            self._items.clear()

    def collect(self) -> list[Family]:
        """The metric of dropped spans."""
        family = Family(SPANS_DROPPED)
        family.set(self._labels, float(self.dropped))
        return [family]

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._export_waiting()
        self._export_waiting()
        try:
            self._close_export()
        except Exception as error:  # noqa: BLE001 - foreign code, at the end of a process
            logger.debug("An exporter could not be closed: %s", error)

    def _export_waiting(self) -> None:
        while self._items and not (self._is_closing and time.monotonic() > self._deadline):
            batch: list[Any] = []
            while self._items and len(batch) < self._batch_size:
                batch.append(self._items.popleft())
            try:
                lost, reason = self._export(batch)
            except Exception as error:  # noqa: BLE001 - foreign code; serving goes on
                lost, reason = len(batch), f"{type(error).__name__}: {error}"
            if lost:
                self._drop(lost, reason)

    def _drop(self, count: int, reason: str) -> None:
        with self._lock:
            self.dropped += count
            if self._has_complained:
                return
            self._has_complained = True
        logger.warning(
            "Spans are dropped: %s. Requests are served all the same; the metric %s counts what is "
            "dropped, and this is told once.",
            reason,
            SPANS_DROPPED.name,
        )
