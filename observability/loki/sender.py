"""Sends what waits in a backlog, in a thread of its own."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from queue import Empty, SimpleQueue

from observability.instrument.supervision import keep_thread_running
from observability.loki.backlog import Backlog

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0
"""Between two attempts to send the same batch: twice as long each time, up to this."""

REFUSED = "refused"
FAILED = "failed"
THREAD_NAME = "tagtrail-push"
PUSH = "push to Loki"

_own = threading.local()
_random = random.SystemRandom()
"""Not the module's own numbers: replicas that are seeded alike would all try at one moment."""


class Outcome(Enum):
    """What came of an attempt."""

    SENT = "sent"
    REFUSED = "refused"
    """It will never be taken."""
    LATER = "later"
    """It may be taken another time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt, and why, for people."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When lines are sent together.

    Attributes:
        lines: most lines of a batch.
        bytes: most bytes of them.
        delay_s: longest wait for a batch to fill, seconds.
    """

    lines: int
    bytes: int
    delay_s: float


def is_sender() -> bool:
    """Whether this thread sends: what is logged in it would be sent by itself, without an end."""
    return getattr(_own, "is_sender", False)


class Sender:
    """Takes batches from a backlog and sends each until it arrived or was refused.

    Args:
        backlog: where lines wait.
        limits: what a batch is.
        encode: makes a request's body of lines.
        send: sends one; it may block.
        close: called in the thread when it ends.
    """

    def __init__(
        self,
        backlog: Backlog,
        limits: BatchLimits,
        encode: Callable[[list[bytes]], bytes],
        send: Callable[[bytes], Answer],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._backlog = backlog
        self._limits = limits
        self._encode = encode
        self._send = send
        self._close = close
        # Not an Event: setting one is not reentrant, and a finaliser may log at any moment.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_closing = threading.Event()
        self._deadline = 0.0
        self._has_complained = False
        self._thread = threading.Thread(
            target=keep_thread_running,
            args=(PUSH, self._run, self._is_closing.wait),
            name=THREAD_NAME,
            daemon=True,
        )

    def start(self) -> None:
        """Send from now on."""
        self._thread.start()

    def wake(self) -> None:
        """Send now what waits, be it a whole batch or not."""
        self._wake.put(None)

    def stop(self, limit_s: float) -> None:
        """Send what waits, for so long. The thread ends after the request it is in."""
        self._deadline = time.monotonic() + limit_s
        self._is_closing.set()
        self.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(limit_s)

    def _run(self) -> None:
        _own.is_sender = True
        while not self._is_closing.is_set():
            self._wait_batch()
            self._send_waiting()
        self._send_waiting()
        self._close()

    def _wait_batch(self) -> None:
        with contextlib.suppress(Empty):
            self._wake.get(timeout=self._limits.delay_s)
            while True:
                self._wake.get_nowait()

    def _send_waiting(self) -> None:
        while not self._is_late() and (
            batch := self._backlog.take(self._limits.lines, self._limits.bytes)
        ):
            try:
                body = self._encode(batch)
            except Exception as error:  # noqa: BLE001 - one batch must not end the thread
                self._backlog.settle(FAILED)
                self._complain("They are dropped", f"{type(error).__name__}: {error}")
                continue
            self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        wait_s = FIRST_WAIT_S
        while not self._is_late():
            try:
                answer = self._send(body)
            except Exception as error:  # noqa: BLE001 - the network and TLS fail in many ways
                answer = Answer(Outcome.LATER, f"{type(error).__name__}: {error}")
            if answer.outcome is Outcome.SENT:
                self._backlog.settle()
                self._has_complained = False
                return
            if answer.outcome is Outcome.REFUSED:
                self._backlog.settle(REFUSED)
                self._complain("They are dropped", answer.reason)
                return
            self._complain("They wait, and are dropped when too many do", answer.reason)
            self._pause(wait_s * _random.uniform(0.75, 1.25))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _pause(self, wait_s: float) -> None:
        """Wait for another attempt; when it is to end, no longer than there is time."""
        if self._is_closing.is_set():
            time.sleep(max(0.0, min(wait_s, self._deadline - time.monotonic())))
        else:
            self._is_closing.wait(wait_s)

    def _is_late(self) -> bool:
        return self._is_closing.is_set() and time.monotonic() >= self._deadline

    def _complain(self, what: str, reason: str) -> None:
        """Once, until it works again. As `logging` tells of a handler's trouble: on stderr.

        A logger is no help: the handler that this belongs to may be its only one.
        """
        stderr = sys.stderr
        if self._has_complained or stderr is None:
            return
        self._has_complained = True
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            print(
                f"Records can't be pushed to Loki: {reason}. {what}; PushHandler.dropped counts.",
                file=stderr,
            )
