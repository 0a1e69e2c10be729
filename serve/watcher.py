"""The listening side of the broadcast: one long poll for all keys that a process wants.

Two kinds of trouble are told apart. The controller is away: quiet, what is known stays. What it
says can't be applied: that is logged, counted, and told to the controller with the next poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from observability.catalog import UPDATE_FAILURES
from observability.instrument.numbers import Family
from observability.instrument.supervision import watch_task
from serve.controller.broadcast import NEVER, Refusal, Stamp, Update
from serve.ids import NAMESPACE

logger = logging.getLogger("ray.serve")

RETRY = "another try to apply what the controller says"

POLL_S = 10.0
ANSWER_S = 5.0
RETRY_S = 0.2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
"""Between two attempts to apply the same value: twice as long each time, up to this."""

Apply = Callable[[str, object], Awaitable[None]]


@dataclass
class _Key:
    """One key as this process has it.

    Attributes:
        applied: stamp of the value it works with.
        latest: the newest value it has heard, and its stamp.
        lock: values are applied one after the other.
        error: why the latest one can't be applied; None: it is, or was not tried yet.
        attempts: how often it was tried in vain.
        complaints: reasons that were logged since a value was applied.
        retry: tries it again.
        is_known: set once a value is applied.
    """

    applied: Stamp = NEVER
    latest: tuple[Stamp, object] = (NEVER, None)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    error: Exception | None = None
    attempts: int = 0
    complaints: set[str] = field(default_factory=set)
    retry: asyncio.Task[None] | None = None
    is_known: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Try it no more."""
        if self.retry is not None:
            self.retry.cancel()


class Watcher:
    """Keeps values as the controller publishes them. Lives on one event loop.

    Args:
        controller_name: whose broadcast.
        listener: this listener's name, unique, if the controller waits for it; "" else.
        apply: called with (key, value) for each change; a value of None means that there is none.
        kind: what listens, in metrics: `ingress`, `handle` or `replica`.
    """

    def __init__(self, controller_name: str, listener: str, apply: Apply, kind: str) -> None:
        self._controller_name = controller_name
        self._listener = listener
        self._apply = apply
        self._kind = kind
        self._keys: dict[str, _Key] = {}
        self._epoch = 0
        self._past_epochs: set[int] = set()
        self._failures = 0
        self._last_answer = ""
        self._more = asyncio.Event()

    async def subscribe(self, key: str) -> None:
        """Want a key. Returns once its present value is applied; raises why it can't be."""
        if key in self._keys:
            return
        known = self._keys[key] = _Key()
        try:
            await self.refresh([key])
        except BaseException:
            del self._keys[key]
            known.stop()
            raise
        self._more.set()

    async def want(self, key: str) -> None:
        """Want a key that `run` is to ask for. Returns once its present value is applied."""
        known = self._keys.setdefault(key, _Key())
        if not known.is_known.is_set():
            self._more.set()
            await known.is_known.wait()

    async def refresh(self, keys: list[str] | None = None) -> None:
        """Ask for the present values now, not at the next poll: one sees one's own change.

        Raises:
            Exception: what kept one of them from being applied.
        """
        wanted = list(self._keys) if keys is None else keys
        if not wanted:
            return
        await self.take(await self._ask(wanted, 0))
        for error in (self._keys[key].error for key in wanted):
            if error is not None:
                raise error

    async def run(self) -> None:
        """Listen for ever. While the controller is away, what is known stays."""
        while True:
            self._more.clear()
            if not self._keys:
                await self._more.wait()
                continue
            more = asyncio.ensure_future(self._more.wait())
            poll = asyncio.ensure_future(self._ask(list(self._keys), POLL_S))
            poll.add_done_callback(_see)
            try:
                await asyncio.wait({more, poll}, return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    await self.take(poll.result())
                    self._last_answer = ""
            except Exception as error:  # noqa: BLE001 - the controller may be away in many ways
                self._tell_silence(error)
                await asyncio.sleep(RETRY_S)
            finally:
                more.cancel()
                poll.cancel()

    async def take(self, update: Update) -> None:
        """Apply what the controller says, each key by itself. What can't be is tried again."""
        await asyncio.gather(*(self._take(key, *entry) for key, entry in update.items()))

    def refusals(self) -> dict[str, Refusal]:
        """What can't be applied at present, by key."""
        return {
            key: Refusal(known.latest[0], _describe(known.error), known.attempts)
            for key, known in self._keys.items()
            if known.error is not None
        }

    def families(self) -> list[Family]:
        """Its metrics as they are now."""
        family = Family(UPDATE_FAILURES)
        family.set((self._kind,), float(self._failures))
        return [family]

    def stop(self) -> None:
        """Try nothing again."""
        for known in self._keys.values():
            known.stop()

    async def _ask(self, keys: list[str], timeout_s: float) -> Update:
        controller = await asyncio.to_thread(ray.get_actor, self._controller_name, NAMESPACE)
        # Not retried by Ray: run() asks again, and a controller that was ended needs no asking.
        listen = controller.listen.options(max_task_retries=0)
        applied = {key: self._keys[key].applied for key in keys}
        reference = listen.remote(self._listener, applied, timeout_s, self.refusals())
        # A controller that is killed at a bad moment may leave a call without an answer.
        return await asyncio.wait_for(_result(reference), timeout_s + ANSWER_S)

    async def _take(self, key: str, stamp: Stamp, value: object) -> None:
        known = self._keys[key]
        if not self._is_newer(stamp, known.latest[0]):
            return
        known.latest = (stamp, value)
        known.attempts = 0
        await self._try(key, known)

    def _is_newer(self, stamp: Stamp, latest: Stamp) -> bool:
        """Answers may come in another order than they were given, of a former controller too."""
        epoch, number = stamp
        if epoch in self._past_epochs:
            return False
        if epoch != self._epoch:
            self._past_epochs.add(self._epoch)
            self._epoch = epoch
        return epoch != latest[0] or number > latest[1]

    async def _try(self, key: str, known: _Key) -> None:
        """Apply the latest value of a key; of several that wait here only the latest is."""
        async with known.lock:
            stamp, value = known.latest
            if known.applied == stamp:
                return
            try:
                await self._apply(key, value)
            except Exception as error:  # noqa: BLE001 - whatever it is: told, and tried again
                self._refuse(key, known, error)
                return
            if known.error is not None:
                logger.info("What the controller says of '%s' is applied now.", key)
                self._more.set()  # the controller has heard of the trouble: of its end too
            known.applied, known.error, known.attempts = stamp, None, 0
            known.complaints.clear()
            known.is_known.set()

    def _refuse(self, key: str, known: _Key, error: Exception) -> None:
        known.error = error
        known.attempts += 1
        self._failures += 1
        self._more.set()
        if (reason := _describe(error)) not in known.complaints:
            known.complaints.add(reason)
            logger.error(
                "What the controller says of '%s' can't be applied: %s. What was applied before "
                "stays; it is tried again.",
                key,
                reason,
                exc_info=error,
            )
        if known.retry is None or known.retry.done():
            known.retry = asyncio.get_running_loop().create_task(self._retry(key, known))
            watch_task(RETRY, known.retry)

    async def _retry(self, key: str, known: _Key) -> None:
        while known.error is not None:
            pause_s = FIRST_PAUSE_S * 2.0 ** min(known.attempts - 1, 16)
            await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
            await self._try(key, known)

    def _tell_silence(self, error: Exception) -> None:
        """Quiet while the controller is away; an answer that is an error is told once."""
        reason = _describe(error)
        is_answer = isinstance(error, RayTaskError) and reason != self._last_answer
        level = logging.ERROR if is_answer else logging.DEBUG
        logger.log(level, "Listening to '%s': %s", self._controller_name, reason)
        self._last_answer = reason if isinstance(error, RayTaskError) else ""


def _describe(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"


def _see(poll: asyncio.Future[Update]) -> None:
    """A poll that is given up may still fail; asyncio complains of an error that nobody saw."""
    if not poll.cancelled():
        poll.exception()


async def _result(reference: Any) -> Update:
    update: Update = await reference
    return update
