"""The listening side of the broadcast: one long poll for all keys that a process wants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import ray

from serve.controller.broadcast import NEVER, Stamp, Update
from serve.ids import NAMESPACE

logger = logging.getLogger("ray.serve")

POLL_S = 10.0
ANSWER_S = 5.0
RETRY_S = 0.2

Apply = Callable[[str, object], Awaitable[None]]


class Watcher:
    """Keeps values as the controller publishes them. Lives on one event loop.

    Args:
        controller_name: whose broadcast.
        listener: this listener's name, unique.
        apply: called with (key, value) for each change; a value of None means that there is none.
    """

    def __init__(self, controller_name: str, listener: str, apply: Apply) -> None:
        self._controller_name = controller_name
        self._listener = listener
        self._apply = apply
        self._applied: dict[str, Stamp] = {}
        self._more = asyncio.Event()

    async def subscribe(self, key: str) -> None:
        """Want a key. Returns once its present value is applied."""
        if key not in self._applied:
            await self.refresh([key])
            self._more.set()

    async def refresh(self, keys: list[str] | None = None) -> None:
        """Ask for the present values now, not at the next poll: one sees one's own change."""
        wanted = list(self._applied) if keys is None else keys
        if wanted:
            await self._take(await self._ask({k: self._applied.get(k, NEVER) for k in wanted}, 0))

    async def run(self) -> None:
        """Listen for ever. While the controller is away, what is known stays."""
        while True:
            self._more.clear()
            more = asyncio.ensure_future(self._more.wait())
            poll = asyncio.ensure_future(self._ask(dict(self._applied), POLL_S))
            poll.add_done_callback(_see)
            try:
                await asyncio.wait({more, poll}, return_when=asyncio.FIRST_COMPLETED)
                if poll.done():
                    await self._take(poll.result())
            except Exception as error:  # noqa: BLE001 - the controller may be away in many ways
                logger.debug("Listening to '%s': %s", self._controller_name, error)
                await asyncio.sleep(RETRY_S)
            finally:
                more.cancel()
                poll.cancel()

    async def _ask(self, applied: dict[str, Stamp], timeout_s: float) -> Update:
        controller = await asyncio.to_thread(ray.get_actor, self._controller_name, NAMESPACE)
        # Not retried by Ray: run() asks again, and a controller that was ended needs no asking.
        listen = controller.listen.options(max_task_retries=0)
        answer = asyncio.ensure_future(_result(listen.remote(self._listener, applied, timeout_s)))
        # A controller that is killed at a bad moment may leave a call without an answer.
        return await asyncio.wait_for(answer, timeout_s + ANSWER_S)

    async def _take(self, update: Update) -> None:
        for key, (stamp, value) in update.items():
            if stamp != self._applied.get(key, NEVER):
                await self._apply(key, value)
                self._applied[key] = stamp


def _see(poll: asyncio.Future[Update]) -> None:
    """A poll that is given up may still fail; asyncio complains of an error that nobody saw."""
    if not poll.cancelled():
        poll.exception()


async def _result(reference: Any) -> Update:
    update: Update = await reference
    return update
