"""The answer to come of one call, wherever that is now: in a queue, or on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class CallFuture(asyncio.Future[Any]):
    """The answer to come of one call. Cancelling it cancels the call.

    Attributes:
        message: what is sent; kept, so that a call that was not executed can be sent elsewhere.
        call_id: its number on the connection it was sent on last.
        on_cancel: whoever has the call now hears that it was cancelled; None: nobody has it.
        timer: ends its wait for a replica; None: it does not wait.
    """

    __slots__ = ("call_id", "message", "on_cancel", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, message: Any) -> None:
        super().__init__(loop=loop)
        self.message = message
        self.call_id = 0
        self.on_cancel: Callable[[CallFuture], None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def cancel(self, msg: Any = None) -> bool:
        """Cancels the call; true unless it is already answered."""
        # An override, not a done callback: it costs nothing where nothing is cancelled.
        cancelled = super().cancel(msg)
        if cancelled and self.on_cancel is not None:
            self.on_cancel(self)
        return cancelled
