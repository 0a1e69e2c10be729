"""What a request waits for at its replica before the user's code works for it."""

from __future__ import annotations

from time import perf_counter

from observability.instrument.context import request_context


class Waits:
    """What a request waited for once it was at its replica, and when it must have begun.

    Attributes:
        gate_s: for a place at the replica, seconds.
        thread_s: for a handler thread, seconds.
        batch_s: for its batch to fill and to run, seconds.
    """

    __slots__ = ("_for_batch", "_since", "batch_s", "gate_s", "thread_s")

    def __init__(self) -> None:
        self.gate_s = self.thread_s = self.batch_s = 0.0
        self._since = -1.0
        self._for_batch = False

    @property
    def is_waiting(self) -> bool:
        """Whether it waits now: no code of the user's has begun to work for it."""
        return self._since >= 0

    @property
    def is_for_batch(self) -> bool:
        """Whether it waits, or waited last, for its batch."""
        return self._for_batch

    def begin(self, *, for_batch: bool) -> None:
        """It waits from now on."""
        self._for_batch = for_batch
        self._since = perf_counter()

    def end(self) -> None:
        """Its wait is over; when it waits for nothing, nothing is done."""
        since, self._since = self._since, -1.0
        if since < 0:
            return
        waited_s = perf_counter() - since
        if self._for_batch:
            self.batch_s += waited_s
        else:
            self.thread_s += waited_s


def own_waits() -> Waits:
    """The waits of the present request, made now if it had none."""
    context = request_context.get()
    if context is None:
        return Waits()
    waits: Waits | None = context.waits
    if waits is None:
        waits = context.waits = Waits()
    return waits
