"""One backend's replicas as one event loop sends to them: connections, whose turn it is, who waits.

Round robin over the replicas, skipping those with `max_concurrent_queries` in flight. If all are
full, calls wait here in the order they came, bounded in number and time.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable

from observability.instrument.supervision import keep_running, watch_task
from serve.call import Call
from serve.errors import RayServeException, ReplicaUnavailableError
from serve.handle.policy import RoundRobin, queue_full_error, queue_timeout_error
from serve.handle.untold import Reason, keeps_records, tell_call
from serve.records import BackendTargets, ReplicaAddress
from serve.transport.auth import AuthError
from serve.transport.callfuture import CallFuture
from serve.transport.client import Connection

RECONNECT_S = 0.1
IDLE_POLL_S = 0.05
CONNECTING = "connection to a replica"
SETTLING = "records of calls whose connection was lost"

Connect = Callable[[ReplicaAddress], Awaitable[Connection]]
Rehome = Callable[[CallFuture], None]

PendingCall = tuple[Call, str, str]
"""A call, the backend it is for, and the replica that has it; "": it waits for a free one."""


class Slot:
    """One replica and the connection to it, once there is one."""

    __slots__ = ("address", "connecting", "connection", "is_removed")

    def __init__(self, address: ReplicaAddress) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.is_removed = False


class Replicas:
    """The replicas of one backend, for the running event loop.

    Args:
        targets: the backend as published.
        connect: opens a connection.
        rehome: takes a call that was not executed when the backend has left the traffic.
    """

    def __init__(self, targets: BackendTargets, connect: Connect, rehome: Rehome) -> None:
        self._targets = targets
        self._connect = connect
        self._rehome = rehome
        self._loop = asyncio.get_running_loop()
        self._slots: list[Slot] = []
        self._turns = RoundRobin()
        self._queue: deque[CallFuture] = deque()
        self._refusal: RayServeException | None = None
        self._is_left = False
        self._settling: set[asyncio.Task[None]] = set()
        self.update(targets)

    @property
    def waiting(self) -> int:
        """Calls that wait for a free replica."""
        return len(self._queue)

    @property
    def settling(self) -> int:
        """Lost connections whose calls nobody tells of yet: whether the replica lives is asked."""
        return len(self._settling)

    def calls_under_way(self) -> list[PendingCall]:
        """The calls that no replica has answered. From any thread."""
        waiting = [(call, "") for call in list(self._queue)]
        for slot in list(self._slots):
            if (connection := slot.connection) is not None:
                sent = list(connection.unanswered.values())
                waiting += [(call, slot.address.replica_tag) for call in sent]
        tag = self._targets.backend_tag
        return [(Call(*c.message), tag, replica) for c, replica in waiting if not c.done()]

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

    def submit(self, call: CallFuture) -> None:
        """Send a call to the next free replica, now or when there is one."""
        connection = None if self._queue else self._free_connection()
        if connection is None:
            self._enqueue(call)
        else:
            self._send(call, connection)

    def pump(self) -> None:
        """Send what waits while a replica is free."""
        while self._queue:
            if self._queue[0].done():
                _stop_timer(self._queue.popleft())
                continue
            connection = self._free_connection()
            if connection is None:
                return
            self._send(self._queue.popleft(), connection)

    def close_gently(self) -> None:
        """The backend has left the traffic: calls in flight finish, those that wait move on."""
        self._is_left = True
        for slot in self._slots:
            self._retire(slot)
        self._slots = []
        for call in self._take_queue():
            self._rehome(call)

    def close(self) -> None:
        """Close every connection; calls in flight fail, and those that wait."""
        self._refuse_all(
            ReplicaUnavailableError(
                f"The calls to backend '{self._targets.backend_tag}' were ended: its instance was "
                "shut down, or the event loop that made the call is over."
            )
        )
        for slot in self._slots:
            slot.is_removed = True
            if slot.connecting is not None:
                slot.connecting.cancel()
            if slot.connection is not None:
                slot.connection.close()
        self._slots = []
        for task in self._settling:
            task.cancel()

    def _send(self, call: CallFuture, connection: Connection) -> None:
        _stop_timer(call)
        try:
            connection.send(call)
        except ReplicaUnavailableError:
            self._enqueue(call)
        except Exception as error:  # noqa: BLE001 - what was sent can't be pickled: the caller's
            self._fail(call, error, Reason.NOT_SENDABLE)

    def _enqueue(self, call: CallFuture) -> None:
        """Let a call wait for its turn."""
        if call.done():
            if call.cancelled():  # while a replica had it that sent it back
                self._tell_cancelled(call)
            return
        call.on_cancel = self._tell_cancelled
        if self._is_left:
            self._rehome(call)
            return
        if self._refusal is not None:
            self._fail(call, self._refusal, Reason.NO_REPLICA)
            return
        if len(self._queue) >= self._targets.max_queued_queries:
            self._queue = deque(waiting for waiting in self._queue if not waiting.done())
        if len(self._queue) >= self._targets.max_queued_queries:
            self._fail(call, queue_full_error(self._targets), Reason.QUEUE_FULL)
            return
        call.timer = self._loop.call_later(self._targets.queue_timeout_s, self._expire, call)
        self._queue.append(call)
        for slot in self._slots:
            self._ensure_connecting(slot)

    def _expire(self, call: CallFuture) -> None:
        if not call.done():
            self._fail(call, queue_timeout_error(self._targets), Reason.QUEUE_TIMEOUT)

    def _fail(self, call: CallFuture, error: Exception, reason: Reason) -> None:
        """A call ends here: no replica had it."""
        tell_call(call.message, self._targets.backend_tag, reason)
        call.set_exception(error)

    def _tell_cancelled(self, call: CallFuture) -> None:
        """A call was cancelled while it was with no replica."""
        tell_call(call.message, self._targets.backend_tag, Reason.CALLER_GONE)

    def _settle_losses(self, address: ReplicaAddress, calls: list[CallFuture]) -> None:
        """The connection to a replica was lost, and calls with it."""
        if keeps_records():
            task = self._loop.create_task(self._tell_losses(address, calls))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            watch_task(SETTLING, task)

    async def _tell_losses(self, address: ReplicaAddress, calls: list[CallFuture]) -> None:
        """A replica that can be reached again lives, and tells of its calls itself."""
        is_alive = False
        try:
            (await self._connect(address)).close()
            is_alive = True
        except (ReplicaUnavailableError, AuthError):
            pass
        finally:  # also when the loop ends meanwhile
            for call in calls if not is_alive else ():
                reason = Reason.CALLER_GONE if call.cancelled() else Reason.REPLICA_DIED
                tag = self._targets.backend_tag
                tell_call(call.message, tag, reason, replica=address.replica_tag)

    def _free_connection(self) -> Connection | None:
        slot = self._turns.take(self._slots, self._has_room)
        return None if slot is None else slot.connection

    def _has_room(self, slot: Slot) -> bool:
        connection = slot.connection
        return (
            connection is not None
            and not connection.closed
            and not connection.draining
            and connection.in_flight < self._targets.max_concurrent_queries
        )

    def _ensure_connecting(self, slot: Slot) -> None:
        is_usable = slot.connection is not None and not slot.connection.closed
        if not is_usable and (slot.connecting is None or slot.connecting.done()):
            slot.connecting = self._loop.create_task(
                keep_running(CONNECTING, lambda: self._keep_connecting(slot))
            )

    async def _keep_connecting(self, slot: Slot) -> None:
        while not slot.is_removed:
            try:
                connection = await self._connect(slot.address)
            except ReplicaUnavailableError:
                # Until the controller publishes that it is gone, or its new address.
                await asyncio.sleep(RECONNECT_S)
                continue
            except AuthError as error:
                self._refuse_all(error)
                return
            connection.on_answer = self.pump
            connection.on_reject = self._enqueue
            connection.on_loss = functools.partial(self._settle_losses, slot.address)
            slot.connection = connection
            self._refusal = None
            self.pump()
            return

    def _retire(self, slot: Slot) -> None:
        slot.is_removed = True
        if slot.connecting is not None:
            slot.connecting.cancel()
        if slot.connection is not None:
            slot.connecting = self._loop.create_task(_close_when_idle(slot.connection))
            watch_task("close of a replica's connection", slot.connecting)

    def _refuse_all(self, error: RayServeException) -> None:
        self._refusal = error
        for call in self._take_queue():
            self._fail(call, error, Reason.NO_REPLICA)

    def _take_queue(self) -> list[CallFuture]:
        """Empty the queue; what still waited in it."""
        queue, self._queue = self._queue, deque()
        for call in queue:
            _stop_timer(call)
        return [call for call in queue if not call.done()]


async def _close_when_idle(connection: Connection) -> None:
    while connection.in_flight and not connection.closed:
        await asyncio.sleep(IDLE_POLL_S)
    connection.close()


def _stop_timer(call: CallFuture) -> None:
    if call.timer is not None:
        call.timer.cancel()
        call.timer = None
