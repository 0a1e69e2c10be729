"""One backend's replicas as one event loop sends to them: connections, whose turn it is, who waits.

Round robin over the replicas, skipping those with `max_concurrent_queries` in flight; if all are full, calls
wait here in the order they came, bounded in number and time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from serve.call import Call
from serve.errors import QueueFullError, QueueTimeoutError, RayServeException, ReplicaUnavailableError
from serve.records import BackendTargets, ReplicaAddress
from serve.transport.auth import AuthError
from serve.transport.client import Connection

RECONNECT_S = 0.1

Connect = Callable[[ReplicaAddress], Awaitable[Connection]]
Rehome = Callable[[Call, "asyncio.Future[object]"], None]


class Slot:
    """One replica and the connection to it, once there is one."""

    __slots__ = ("address", "connecting", "connection", "is_removed")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.is_removed = False


class Attempt:
    """One call on its way: waits for a replica, is sent, is sent elsewhere if it was not executed."""

    __slots__ = ("answer", "call", "can_move", "replicas", "sent", "timer")

    def __init__(
        self, replicas: Replicas, call: Call, answer: asyncio.Future[object], can_move: bool
    ) -> None:
        self.replicas = replicas
        self.can_move = can_move
        self.call = call
        self.answer = answer
        self.sent: asyncio.Future[object] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def send(self, connection: Connection) -> None:
        """Send the call; its answer, or another try, follows."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        try:
            sent = connection.call(self.call)
        except ReplicaUnavailableError:
            self.replicas.enqueue(self)
            return
        except Exception as error:  # noqa: BLE001 - what was sent can't be pickled: the caller's
            self.answer.set_exception(error)
            return
        self.sent = sent
        sent.add_done_callback(self._finish)

    def cancel(self) -> None:
        """The caller gave up."""
        if self.sent is not None:
            self.sent.cancel()

    def expire(self) -> None:
        """No replica became free in time."""
        if not self.answer.done():
            self.answer.set_exception(self.replicas.timeout_error())

    def _finish(self, sent: asyncio.Future[object]) -> None:
        answer = self.answer
        if sent.cancelled():
            answer.cancel()
        elif (error := sent.exception()) is None:
            if not answer.done():
                answer.set_result(sent.result())
        elif not answer.done():
            if isinstance(error, ReplicaUnavailableError):
                self.sent = None
                self.replicas.enqueue(self)
                return
            answer.set_exception(error)
            if self.replicas.is_closed:
                answer.exception()  # a loop that ended with calls in flight: not worth a log line
        self.replicas.pump()


class Replicas:
    """The replicas of one backend, for one event loop.

    Args:
        targets: the backend as published.
        connect: opens a connection.
        rehome: takes a call that waits here when the backend leaves the endpoint's traffic.
    """

    def __init__(self, targets: BackendTargets, connect: Connect, rehome: Rehome) -> None:
        self._targets = targets
        self._connect = connect
        self._rehome = rehome
        self.is_closed = False
        self._is_left = False
        self._slots: list[Slot] = []
        self._next = 0
        self._queue: deque[Attempt] = deque()
        self._refusal: RayServeException | None = None
        self.update(targets)

    def update(self, targets: BackendTargets) -> None:
        """Take the backend as published now. Replicas that left finish what they have."""
        self._targets = targets
        known = {slot.address: slot for slot in self._slots}
        self._slots = [known.get(address) or Slot(address) for address in targets.replicas]
        for address, slot in known.items():
            if address not in targets.replicas:
                self._retire(slot)
        for slot in self._slots:
            self._ensure_connecting(slot)
        self.pump()

    def submit(
        self, call: Call, answer: asyncio.Future[object], can_move: bool = True
    ) -> Attempt:
        """Send a call to the next free replica, now or when there is one.

        Args:
            call: what to send.
            answer: gets the result.
            can_move: it goes to another backend if this one leaves the traffic while it waits.
        """
        attempt = Attempt(self, call, answer, can_move)
        connection = None if self._queue else self._free_connection()
        if connection is not None:
            attempt.send(connection)
        else:
            self.enqueue(attempt)
        return attempt

    def enqueue(self, attempt: Attempt) -> None:
        """Let an attempt wait for its turn."""
        if self._is_left:
            self._send_away(attempt)
            return
        if self._refusal is not None:
            attempt.answer.set_exception(self._refusal)
            return
        if len(self._queue) >= self._targets.max_queued_queries:
            self._forget_answered()
        if len(self._queue) >= self._targets.max_queued_queries:
            attempt.answer.set_exception(self._full_error())
            return
        if attempt.timer is None:
            loop = asyncio.get_running_loop()
            attempt.timer = loop.call_later(self._targets.queue_timeout_s, attempt.expire)
        self._queue.append(attempt)
        for slot in self._slots:
            self._ensure_connecting(slot)

    def pump(self) -> None:
        """Send what waits while a replica is free."""
        while self._queue:
            if self._queue[0].answer.done():
                self._drop(self._queue.popleft())
                continue
            connection = self._free_connection()
            if connection is None:
                return
            self._queue.popleft().send(connection)

    def close_gently(self) -> None:
        """The backend is no longer the endpoint's: calls in flight finish, those that wait move on."""
        self._is_left = True
        for slot in self._slots:
            self._retire(slot)
        self._slots = []
        waiting, self._queue = self._queue, deque()
        for attempt in waiting:
            self._send_away(attempt)

    def close(self) -> None:
        """Close every connection; calls in flight and those that wait fail."""
        self.is_closed = True
        for slot in self._slots:
            slot.is_removed = True
            if slot.connecting is not None:
                slot.connecting.cancel()
            if slot.connection is not None:
                slot.connection.close()
        self._slots = []
        self._refuse_all(
            ReplicaUnavailableError(
                f"The call waited for backend '{self._targets.backend_tag}' when its instance or its event loop "
                "ended. It was not executed."
            )
        )

    def timeout_error(self) -> QueueTimeoutError:
        """What a call gets that waited too long."""
        targets = self._targets
        return QueueTimeoutError(
            f"Backend '{targets.backend_tag}' had no replica free within {targets.queue_timeout_s:g} s "
            f"(queue_timeout_s). It has {len(targets.replicas)} running, each takes "
            f"{targets.max_concurrent_queries} at once. Add replicas, or raise max_concurrent_queries or "
            "queue_timeout_s."
        )

    def _free_connection(self) -> Connection | None:
        slots, limit = self._slots, self._targets.max_concurrent_queries
        count = len(slots)
        for step in range(count):
            index = (self._next + step) % count
            connection = slots[index].connection
            if connection is None or connection.closed or connection.draining:
                continue
            if connection.in_flight < limit:
                self._next = index + 1
                return connection
        return None

    def _ensure_connecting(self, slot: Slot) -> None:
        is_usable = slot.connection is not None and not slot.connection.closed
        if not is_usable and (slot.connecting is None or slot.connecting.done()):
            slot.connecting = asyncio.get_running_loop().create_task(self._keep_connecting(slot))

    async def _keep_connecting(self, slot: Slot) -> None:
        while not slot.is_removed:
            try:
                slot.connection = await self._connect(slot.address)
            except ReplicaUnavailableError:
                await asyncio.sleep(RECONNECT_S)  # until the controller publishes its end or new address
                continue
            except AuthError as error:
                self._refuse_all(error)
                return
            self._refusal = None
            self.pump()
            return

    def _refuse_all(self, error: RayServeException) -> None:
        self._refusal = error
        for attempt in self._queue:
            self._drop(attempt)
            if not attempt.answer.done():
                attempt.answer.set_exception(error)
                if self.is_closed:
                    attempt.answer.exception()
        self._queue.clear()

    def _send_away(self, attempt: Attempt) -> None:
        self._drop(attempt)
        if attempt.answer.done():
            return
        if attempt.can_move:
            self._rehome(attempt.call, attempt.answer)
            return
        attempt.answer.set_exception(
            ReplicaUnavailableError(
                f"Backend '{self._targets.backend_tag}' was taken out of the traffic while the call waited. It "
                "was not executed."
            )
        )

    def _retire(self, slot: Slot) -> None:
        slot.is_removed = True
        if slot.connecting is not None:
            slot.connecting.cancel()
        if slot.connection is not None:
            loop = asyncio.get_running_loop()
            slot.connecting = loop.create_task(_close_when_idle(slot.connection))

    def _forget_answered(self) -> None:
        for attempt in self._queue:
            if attempt.answer.done():
                self._drop(attempt)
        self._queue = deque(attempt for attempt in self._queue if not attempt.answer.done())

    def _drop(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()

    def _full_error(self) -> QueueFullError:
        targets = self._targets
        return QueueFullError(
            f"The queue of backend '{targets.backend_tag}' is full: {targets.max_queued_queries} calls wait "
            "already (max_queued_queries). Send slower, add replicas, or raise max_queued_queries."
        )


async def _close_when_idle(connection: Connection) -> None:
    while connection.in_flight and not connection.closed:
        await asyncio.sleep(0.05)
    connection.close()
