"""Watches the replica's event loop: how late it is, and what holds it up.

A timer on the loop tells the lag. A blocked loop can't tell of itself, so a thread beside it does,
once for each block, with the stack of the loop's thread: what a blocking call in an `async def` is
found by.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import traceback
from collections.abc import Sequence

from observability.instrument.supervision import keep_running, keep_thread_running
from serve.replica.metrics import ReplicaMetrics

TICK_S = 0.1
LOOK_S = 0.5
BLOCKED_S = 5.0
"""After this a loop counts as blocked, and it is told where, seconds."""

LAG_WATCH = "watch of the event loop's lag"
BLOCK_WATCH = "watch for a blocked event loop"

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib"))

logger = logging.getLogger("ray.serve")


class LoopWatch:
    """One for each replica. It watches the loop that runs when it is started, and its thread.

    Args:
        metrics: of the replica; their `loop_lag_ms` is set each second.
        blocked_s: after how long a loop counts as blocked, seconds.
    """

    def __init__(self, metrics: ReplicaMetrics, blocked_s: float = BLOCKED_S) -> None:
        self._metrics = metrics
        self._blocked_s = blocked_s
        self._ticks = 0
        self._task: asyncio.Task[None] | None = None
        self._is_over = threading.Event()

    def start(self) -> None:
        """Begin. The constructor of the user's code may block the loop, and is over."""
        self._loop_thread = threading.current_thread()
        self._task = asyncio.get_running_loop().create_task(keep_running(LAG_WATCH, self._tick))
        threading.Thread(
            target=keep_thread_running,
            args=(BLOCK_WATCH, self._look, self._is_over.wait),
            name="loop-watch",
            daemon=True,
        ).start()

    def stop(self) -> None:
        """End."""
        self._is_over.set()
        if self._task is not None:
            self._task.cancel()

    async def _tick(self) -> None:
        """How late a timer is: how long this loop was busy with something else."""
        loop = asyncio.get_running_loop()
        while True:
            worst_s = 0.0
            for _ in range(round(1 / TICK_S)):
                due = loop.time() + TICK_S
                await asyncio.sleep(TICK_S)
                self._ticks += 1
                worst_s = max(worst_s, loop.time() - due)
            self._metrics.loop_lag_ms = worst_s * 1000

    def _look(self) -> None:
        seen, missed, is_told = -1, 0, False
        while not self._is_over.wait(LOOK_S):
            if self._ticks != seen:
                if is_told:
                    logger.warning("The event loop goes on after %.1f s.", missed * LOOK_S)
                seen, missed, is_told = self._ticks, 0, False
                continue
            # Looks are counted, not seconds: a process that was stopped has not been blocked.
            missed += 1
            if missed * LOOK_S >= self._blocked_s and not is_told:
                is_told = True
                self._tell(missed * LOOK_S)

    def _tell(self, blocked_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread.ident or 0)
        if frame is None or not self._loop_thread.is_alive():  # its number may be another's by now
            logger.error("The event loop has ended: this replica answers nobody any more.")
            return
        stack = traceback.extract_stack(frame)
        place = find_place(stack)
        text = (
            f"The event loop is blocked for {blocked_s:.1f} s, in {place.filename}:{place.lineno} "
            f"{place.name}: nothing else is answered meanwhile. Blocking code belongs in a 'def' "
            "handler or in asyncio.to_thread()."
        )
        lines = "Stack of the event loop's thread:\n" + "".join(stack.format()).rstrip()
        where = (place.filename, place.lineno or 0)
        record = logger.makeRecord(
            logger.name, logging.ERROR, *where, text, (), None, place.name, sinfo=lines
        )
        logger.handle(record)


def find_place(stack: Sequence[traceback.FrameSummary]) -> traceback.FrameSummary:
    """Where a thread is in the user's code: the innermost place outside of installed libraries."""
    for place in reversed(stack):
        if not place.filename.startswith((*_LIBRARIES, "<")):
            return place
    return stack[-1]
