"""Work that lasts as long as its process: a failure is told and counted, and it is begun again.

A task or a thread whose exception nobody takes ends without a word, and what it kept stands still.
Whoever starts one that is meant to run for ever starts it through here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from observability.catalog import TASK_FAILURES
from observability.instrument.numbers import Family
from observability.instrument.origin import read_origin

PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Before work is begun again: the first failure's, the second's, ..., all later ones'."""

CALM_S = 30.0
"""Work that has not failed for so long is well again, seconds."""

STEP_S = 7.0
"""Longest time for one of a process's last steps, seconds: the controller waits 10 for all."""

LOOK_S = 1.0
"""How often is looked for what fails, for those who watch a process, seconds."""

_MAX_REASONS = 100

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Work that fails at present.

    Attributes:
        task: its name.
        since: when it began to fail, UTC, ISO 8601.
        reason: its last failure.
    """

    task: str
    since: str
    reason: str

    def __str__(self) -> str:
        return f"{self.task} is failing since {self.since}: {self.reason}"


@dataclass(slots=True)
class _Account:
    """What is known of one piece of work."""

    failures: int = 0
    since_s: float = 0.0
    last_at: float = -CALM_S
    reason: str = ""
    told: set[str] = field(default_factory=set)


class Troubles:
    """The failures of a process's lasting work. Any thread may call it.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        # Reentrant: a finaliser may fail, and tell, while it is held.
        self._lock = threading.RLock()

    def expect(self, task: str) -> None:
        """Have a task among those that are counted, so that its 0 is seen."""
        with self._lock:
            self._accounts.setdefault(task, _Account())

    def tell(self, task: str, error: BaseException, consequence: str = "") -> None:
        """A task failed: counted each time, logged with its traceback once for each reason.

        Args:
            task: its name, of a bounded set: it is a label.
            error: why.
            consequence: what that means and what happens next, a sentence for people.
        """
        reason = f"{type(error).__name__}: {error}"
        with self._lock:
            account = self._accounts.setdefault(task, _Account())
            now = self._clock()
            if now - account.last_at >= CALM_S:
                account.since_s = time.time()
                account.told.clear()
            account.failures += 1
            account.last_at, account.reason = now, reason
            is_new = reason not in account.told and len(account.told) < _MAX_REASONS
            account.told.add(reason)
        level = logging.ERROR if is_new else logging.DEBUG
        exc_info = (type(error), error, error.__traceback__) if is_new else None
        text = f" {consequence}" if consequence else ""
        logger.log(level, "%s failed: %s.%s", task, reason, text, exc_info=exc_info)

    def clear(self, task: str) -> None:
        """A task is well again."""
        account = self._accounts.get(task)
        if account is not None:
            account.last_at = -CALM_S

    def current(self) -> list[Trouble]:
        """What fails at present."""
        now = self._clock()
        with self._lock:
            return [
                Trouble(task, _format_time(account.since_s), account.reason)
                for task, account in self._accounts.items()
                if account.failures and now - account.last_at < CALM_S
            ]

    def describe(self) -> str:
        """What fails at present, for people; "" when all is well."""
        return "; ".join(map(str, self.current()))

    def collect(self) -> list[Family]:
        """The metric of failures."""
        origin = read_origin()
        who = tuple(str(origin.get(name, "")) for name in ("component", "backend", "replica"))
        family = Family(TASK_FAILURES)
        with self._lock:
            for task, account in self._accounts.items():
                family.set((*who, task), float(account.failures))
        return [family]


process_troubles = Troubles()
"""Those of this process."""


async def keep_running(
    task: str,
    work: Callable[[], Coroutine[Any, Any, None]],
    troubles: Troubles = process_troubles,
) -> None:
    """Run work until it returns; whenever it fails it is begun again, after a pause.

    Args:
        task: its name.
        work: makes the coroutine.
        troubles: hear of failures.
    """
    pauses = _Pauses(task, troubles)
    while True:
        try:
            await work()
            return
        except Exception as error:  # noqa: BLE001 - task boundary: told, counted, begun again
            pause_s = pauses.next(error)
        await asyncio.sleep(pause_s)


def keep_thread_running(
    task: str,
    work: Callable[[], None],
    pause: Callable[[float], object] = time.sleep,
    troubles: Troubles = process_troubles,
) -> None:
    """`keep_running` for a thread: its target.

    Args:
        task: its name.
        work: what the thread does.
        pause: waits so many seconds, or until the work is to end.
        troubles: hear of failures.
    """
    pauses = _Pauses(task, troubles)
    while True:
        try:
            work()
            return
        except Exception as error:  # noqa: BLE001 - thread boundary: told, counted, begun again
            pause_s = pauses.next(error)
        pause(pause_s)


def watch_task(
    task: str, running: asyncio.Future[Any], troubles: Troubles = process_troubles
) -> None:
    """Have the failure of work that is done once told and counted."""

    def see(ended: asyncio.Future[Any]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            troubles.tell(task, error)

    running.add_done_callback(see)


async def run_all(
    task: str,
    *steps: Callable[[], Awaitable[object]],
    limit_s: float = STEP_S,
    troubles: Troubles = process_troubles,
) -> None:
    """Do each step in turn, whatever became of those before: the last ones of a process, say.

    Args:
        task: what the steps are, a name.
        *steps: they may not take longer than `limit_s` each, or are given up.
        limit_s: seconds.
        troubles: hear of failures.
    """
    for step in steps:
        try:
            await asyncio.wait_for(step(), limit_s)
        except Exception as error:  # noqa: BLE001 - told; the steps that follow are due all the same
            troubles.tell(task, error)


def in_thread(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    """Blocking work as a step of `run_all`."""
    return functools.partial(asyncio.to_thread, work)


async def until_other_trouble(known: str) -> str:
    """What fails in this process, once that is another than what is known."""
    while (present := process_troubles.describe()) == known:
        await asyncio.sleep(LOOK_S)
    return present


class _Pauses:
    """How long one piece of work waits before it is begun again."""

    def __init__(self, task: str, troubles: Troubles) -> None:
        self._task = task
        self._troubles = troubles
        self._failures = 0
        self._last_at = 0.0
        troubles.expect(task)

    def next(self, error: Exception) -> float:
        """It failed; the pause, seconds."""
        now = time.monotonic()
        if now - self._last_at >= CALM_S:
            self._failures = 0
        self._last_at = now
        pause_s = pause_after(self._failures)
        self._failures += 1
        self._troubles.tell(self._task, error, f"It is begun again in {pause_s:g} s.")
        return pause_s


def pause_after(failures: int) -> float:
    """The pause after so many failures in a row before this one, seconds."""
    return PAUSES_S[min(failures, len(PAUSES_S) - 1)]


def _format_time(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, timezone.utc).isoformat(timespec="seconds")
