"""Which replica a `handle.remote()` goes to: Ray actor calls, from any thread, for one endpoint.

An ObjectRef must come back at once, so nothing is awaited unless every replica is full. What is in
flight is known from a second, empty return value of each call: holding that keeps no result alive.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError

from serve.call import Call, pack_call
from serve.handle.policy import RoundRobin, queue_full_error, queue_timeout_error
from serve.handle.router import UNKNOWN_ENDPOINT_S, no_traffic_error, unknown_endpoint_error
from serve.handle.untold import Reason, keeps_records, tell_call
from serve.ids import NAMESPACE
from serve.records import BackendTargets, EndpointTargets, ReplicaAddress
from serve.traffic import choose_backend, choose_shadows, split_number

if TYPE_CHECKING:  # it knows OpenTelemetry, which is not imported unless traces are on
    from observability.instrument.tracer import CallSpan

POLL_S = 0.05
_ARGUMENT_FAILED = "At least one of the input arguments for this task could not be computed"
"""What Ray says in its second line when an ObjectRef among the data failed."""


class ActorSlot:
    """One replica's actor and the calls to it that are not known to be done."""

    __slots__ = ("method", "pending")

    def __init__(self, actor: ActorHandle) -> None:
        self.method = actor.handle_call.options(num_returns=2)
        self.pending: list[ObjectRef] = []

    def has_room(self, limit: int) -> bool:
        """Whether one more call fits. Looks at what is done only when it seems full."""
        if len(self.pending) >= limit:
            self.sweep()
        return len(self.pending) < limit

    def sweep(self) -> None:
        """Forget the calls that are done."""
        if self.pending:
            count = len(self.pending)
            _, self.pending = ray.wait(
                self.pending, num_returns=count, timeout=0, fetch_local=False
            )

    def send(self, call: Call, backend_tag: str, span: CallSpan | None = None) -> ObjectRef:
        """Make the actor call; a span of it ends with it."""
        try:
            result, done = self.method.remote(*pack_call(call))
        except Exception:
            tell_call(call, backend_tag, Reason.NOT_SENDABLE, "remote")
            raise
        self.pending.append(done)
        if span is not None:
            done.future().add_done_callback(span.finish)
        if keeps_records():
            facts = call._replace(data=None, kwargs={})  # the data may be large
            done.future().add_done_callback(partial(_tell_end, facts, backend_tag))
        return result


def why_untold(error: BaseException | None) -> Reason | None:
    """Why no replica tells of an actor call that ended so; None: one does."""
    if isinstance(error, RayTaskError):  # raised by the replica, or before it began
        told = str(error).partition("\n")[2].lstrip()
        return Reason.NOT_SENDABLE if told.startswith(_ARGUMENT_FAILED) else None
    if isinstance(error, TaskCancelledError):  # one that had begun ends in a RayTaskError
        return Reason.CALLER_GONE
    return Reason.REPLICA_DIED if isinstance(error, RayActorError) else None


def _tell_end(call: Call, backend_tag: str, future: concurrent.futures.Future[None]) -> None:
    if (reason := why_untold(future.exception())) is not None:
        tell_call(call, backend_tag, reason, "remote")


class ActorRouter:
    """Routes one process's `remote()` calls to one endpoint. Threads may share it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._targets: EndpointTargets | None = None
        self._slots: dict[ReplicaAddress, ActorSlot] = {}
        self._turns: dict[str, RoundRobin] = {}
        self._waiting = 0
        self._lock = threading.Lock()

    def waiting(self) -> dict[str, int]:
        """Threads that wait for a replica with room, by backend tag.

        Which backend a call goes to is drawn anew at each try: they are told of the likeliest.
        """
        targets = self._targets
        if targets is None or not targets.policy.weights:
            return {}
        likeliest = max(targets.policy.weights, key=lambda weight: weight[1])[0]
        return {likeliest: self._waiting}

    def update(self, targets: EndpointTargets | None) -> None:
        """Take the endpoint as published now."""
        with self._lock:
            self._targets = targets
            live = {a for b in targets.backends for a in b.replicas} if targets else set()
            self._slots = {a: slot for a, slot in self._slots.items() if a in live}

    def send(self, call: Call, span: CallSpan | None = None) -> ObjectRef:
        """Send a call, waiting for a replica with room if there is none.

        Args:
            call: the call.
            span: ends when the call is done. Nobody ends it when this raises.

        Raises:
            RayServeException: the endpoint does not exist within 5 s, or has no traffic.
            QueueFullError: `max_queued_queries` threads of this process wait already.
            QueueTimeoutError: no replica had room within the backend's `queue_timeout_s`.
        """
        number = split_number(call.shard_key)
        reference = self.try_send(call, number, span)
        if reference is not None:
            return reference
        started = time.monotonic()
        self._waiting += 1
        try:
            while reference is None:
                self._check_patience(call, time.monotonic() - started, number)
                self._wait_for_room()
                reference = self.try_send(call, number, span)
            return reference
        finally:
            self._waiting -= 1

    def try_send(self, call: Call, number: int, span: CallSpan | None = None) -> ObjectRef | None:
        """Send a call if a replica has room now."""
        with self._lock:
            if self._targets is None:
                return None
            policy = self._targets.policy
            tag = choose_backend(policy, number)
            if tag is None:
                tell_call(call, "", Reason.NO_TRAFFIC, "remote")
                raise no_traffic_error(self._endpoint)
            reference = self._send_to(self._backend(tag), call, span)
            if reference is not None:
                for shadow in choose_shadows(policy, number):
                    self._send_to(self._backend(shadow), call._replace(is_shadow=True))
            return reference

    def sweep(self) -> None:
        """Forget all calls that are done, now and then: a handle at rest holds nothing."""
        with self._lock:
            for slot in self._slots.values():
                slot.sweep()

    def _send_to(
        self, backend: BackendTargets, call: Call, span: CallSpan | None = None
    ) -> ObjectRef | None:
        limit = backend.max_concurrent_queries

        def has_room(address: ReplicaAddress) -> bool:
            slot = self._slots.get(address) or self._find(address)
            return slot is not None and slot.has_room(limit)

        turns = self._turns.setdefault(backend.backend_tag, RoundRobin())
        address = turns.take(backend.replicas, has_room)
        if address is None:
            return None
        return self._slots[address].send(call, backend.backend_tag, span)

    def _find(self, address: ReplicaAddress) -> ActorSlot | None:
        try:
            actor = ray.get_actor(address.actor_name, namespace=NAMESPACE)
        except ValueError:  # ended since it was published
            return None
        slot = self._slots[address] = ActorSlot(actor)
        return slot

    def _backend(self, tag: str) -> BackendTargets:
        assert self._targets is not None
        return next(b for b in self._targets.backends if b.backend_tag == tag)

    def _wait_for_room(self) -> None:
        """Until some call is done, or a moment has passed: replicas may have come, too."""
        with self._lock:
            pending = [ref for slot in self._slots.values() for ref in slot.pending]
        if pending:
            ray.wait(pending, num_returns=1, timeout=POLL_S, fetch_local=False)
        else:
            time.sleep(POLL_S)

    def _check_patience(self, call: Call, waited_s: float, number: int) -> None:
        """Give a call up that has waited too long, or with too many others."""
        targets = self._targets
        if targets is None:
            if waited_s > UNKNOWN_ENDPOINT_S:
                tell_call(call, "", Reason.NOT_FOUND, "remote")
                raise unknown_endpoint_error(self._endpoint)
            return
        tag = choose_backend(targets.policy, number)
        for backend in targets.backends:
            if backend.backend_tag != tag:
                continue
            if self._waiting > backend.max_queued_queries:
                tell_call(call, backend.backend_tag, Reason.QUEUE_FULL, "remote")
                raise queue_full_error(backend)
            if waited_s > backend.queue_timeout_s:
                tell_call(call, backend.backend_tag, Reason.QUEUE_TIMEOUT, "remote")
                raise queue_timeout_error(backend)
