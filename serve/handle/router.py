"""Which replica a direct call goes to, for one endpoint and one event loop. Without Ray."""

from __future__ import annotations

import asyncio
from collections import deque

from serve.call import Call
from serve.errors import RayServeException
from serve.handle.replicas import Connect, PendingCall, Replicas
from serve.handle.untold import Reason, tell_call
from serve.records import EndpointTargets
from serve.traffic import choose_backend, choose_shadows, split_number
from serve.transport.callfuture import CallFuture

UNKNOWN_ENDPOINT_S = 5.0


class Router:
    """Routes the calls to one endpoint on the running event loop.

    Args:
        endpoint: its name.
        targets: the endpoint as published; None while it does not exist.
        connect: opens a connection to a replica.
    """

    def __init__(self, endpoint: str, targets: EndpointTargets | None, connect: Connect) -> None:
        self._endpoint = endpoint
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._targets: EndpointTargets | None = None
        self._backends: dict[str, Replicas] = {}
        self._only: Replicas | None = None
        self._homeless: deque[CallFuture] = deque()
        self._copies: set[CallFuture] = set()  # in flight to shadows: never sent elsewhere
        if targets is not None:
            self.update(targets)

    def update(self, targets: EndpointTargets | None) -> None:
        """Take the endpoint as published now."""
        self._targets = targets
        published = {} if targets is None else {b.backend_tag: b for b in targets.backends}
        left = [self._backends.pop(tag) for tag in list(self._backends) if tag not in published]
        for tag, backend in published.items():
            if tag in self._backends:
                self._backends[tag].update(backend)
            else:
                self._backends[tag] = Replicas(backend, self._connect, self._rehome)
        self._only = self._sole_backend()
        for replicas in left:
            replicas.close_gently()  # what waits there goes to those that are known by now
        while targets is not None and self._homeless:
            future = self._homeless.popleft()
            if not future.done():
                self._route(future)

    def send(self, call: Call) -> CallFuture:
        """Send a call; the answer comes on this loop."""
        future = CallFuture(self._loop, tuple(call))
        if self._only is not None:
            self._only.submit(future)
        elif self._targets is None:
            self._wait_for_endpoint(future)
        else:
            self._route(future)
        return future

    def send_to(self, backend_tag: str, call: Call) -> CallFuture:
        """Send a call to one of the endpoint's backends, past the policy: a shadow's copy."""
        future = CallFuture(self._loop, tuple(call))
        replicas = self._backends.get(backend_tag)
        if replicas is None:
            tell_call(future.message, "", Reason.NO_TRAFFIC)
            future.set_exception(RayServeException(f"Backend '{backend_tag}' is not in use."))
        else:
            self._copies.add(future)
            future.add_done_callback(self._copies.discard)
            replicas.submit(future)
        return future

    def waiting(self) -> dict[str, int]:
        """Calls that wait for a free replica, by backend tag. From any thread."""
        return {tag: replicas.waiting for tag, replicas in list(self._backends.items())}

    def calls_under_way(self) -> list[PendingCall]:
        """The calls that no replica has answered. From any thread."""
        backends = list(self._backends.values())
        return [pending for replicas in backends for pending in replicas.calls_under_way()]

    def close(self) -> None:
        """Close every connection; calls in flight fail."""
        for replicas in self._backends.values():
            replicas.close()
        self._backends.clear()
        self._only = None

    def _sole_backend(self) -> Replicas | None:
        """The backend that gets every request, where there is nothing to choose."""
        policy = None if self._targets is None else self._targets.policy
        if policy is None or policy.shadows or len(policy.weights) != 1:
            return None
        return self._backends[policy.weights[0][0]]

    def _route(self, future: CallFuture, *, is_copied: bool = False) -> None:
        assert self._targets is not None  # the callers have looked
        policy = self._targets.policy
        call = Call(*future.message)
        number = split_number(call.shard_key)
        tag = choose_backend(policy, number)
        if tag is None:
            tell_call(future.message, "", Reason.NO_TRAFFIC)
            future.set_exception(no_traffic_error(self._endpoint))
            return
        if not is_copied:
            for shadow in choose_shadows(policy, number):
                copy = call._replace(is_shadow=True)
                self.send_to(shadow, copy).add_done_callback(_ignore)
        self._backends[tag].submit(future)

    def _rehome(self, future: CallFuture) -> None:
        """Its backend left the traffic before it was executed: the new policy decides."""
        if future in self._copies:
            tell_call(future.message, "", Reason.NO_TRAFFIC)
            future.set_exception(RayServeException("The shadow was ended."))
        elif self._targets is None:
            self._wait_for_endpoint(future)
        else:
            self._route(future, is_copied=True)

    def _wait_for_endpoint(self, future: CallFuture) -> None:
        self._homeless.append(future)
        future.on_cancel = _tell_cancelled

        def give_up() -> None:
            if not future.done() and self._targets is None:
                tell_call(future.message, "", Reason.NOT_FOUND)
                future.set_exception(unknown_endpoint_error(self._endpoint))

        self._loop.call_later(UNKNOWN_ENDPOINT_S, give_up)


def _tell_cancelled(future: CallFuture) -> None:
    tell_call(future.message, "", Reason.CALLER_GONE)


def no_traffic_error(endpoint: str) -> RayServeException:
    """What a call to an endpoint without traffic gets."""
    return RayServeException(
        f"Endpoint '{endpoint}' has no backend in its traffic. Give it one with "
        f"serve.set_traffic({endpoint!r}, {{backend_tag: 1.0}})."
    )


def unknown_endpoint_error(endpoint: str) -> RayServeException:
    """What a call gets whose endpoint did not come into being."""
    return RayServeException(
        f"Endpoint {endpoint} doesn't exist after {UNKNOWN_ENDPOINT_S:g}s timeout. Marking the "
        f"query failed. Create it with serve.create_endpoint({endpoint!r}, backend=...)."
    )


def _ignore(answer: asyncio.Future[object]) -> None:
    if not answer.cancelled():
        answer.exception()  # a shadow's failure is nobody's
