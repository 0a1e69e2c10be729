"""Which replica a direct call goes to, for one endpoint and one event loop. No Ray call on the way."""

from __future__ import annotations

import asyncio
from collections import deque

from serve.call import SHARD_KEY_HEADER, Call
from serve.errors import RayServeException
from serve.handle.replicas import Attempt, Connect, Replicas
from serve.records import EndpointTargets
from serve.traffic import choose_backend, choose_shadows, split_number

UNKNOWN_ENDPOINT_S = 5.0


class Answer(asyncio.Future[object]):
    """The answer to come of one call. Cancelling it cancels the call where it is."""

    __slots__ = ("attempt",)

    attempt: Attempt | None

    def cancel(self, msg: object = None) -> bool:
        """Cancel the call; true unless it is answered."""
        is_cancelled = super().cancel(msg)
        if is_cancelled and self.attempt is not None:
            self.attempt.cancel()
        return is_cancelled


class Router:
    """Routes the calls to one endpoint on one event loop.

    Args:
        endpoint: its name.
        targets: the endpoint as published; None while it does not exist.
        connect: opens a connection to a replica.
    """

    def __init__(
        self, endpoint: str, targets: EndpointTargets | None, connect: Connect
    ) -> None:
        self._endpoint = endpoint
        self._connect = connect
        self._targets: EndpointTargets | None = None
        self._backends: dict[str, Replicas] = {}
        self._homeless: deque[tuple[Call, str | None, Answer]] = deque()
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
        for replicas in left:
            replicas.close_gently()  # what waits there goes to those that are known by now
        while targets is not None and self._homeless:
            call, shard_key, answer = self._homeless.popleft()
            if not answer.done():
                self._route(call, shard_key, answer)

    def send(self, call: Call, shard_key: str | None) -> Answer:
        """Send a call; the answer comes on this loop."""
        answer = Answer(loop=asyncio.get_running_loop())
        answer.attempt = None
        if self._targets is None:
            self._wait_for_endpoint(call, shard_key, answer)
        else:
            self._route(call, shard_key, answer)
        return answer

    def send_to(self, backend_tag: str, call: Call) -> Answer:
        """Send a call to one of the endpoint's backends, past the policy: a shadow's copy."""
        answer = Answer(loop=asyncio.get_running_loop())
        replicas = self._backends.get(backend_tag)
        if replicas is None:
            answer.attempt = None
            answer.set_exception(RayServeException(f"Backend '{backend_tag}' is not in use."))
        else:
            answer.attempt = replicas.submit(call, answer, can_move=False)
        return answer

    def close(self) -> None:
        """Close every connection; calls in flight fail."""
        for replicas in self._backends.values():
            replicas.close()
        self._backends.clear()

    def _route(
        self, call: Call, shard_key: str | None, answer: Answer, *, is_copied: bool = False
    ) -> None:
        assert self._targets is not None  # the callers have looked
        policy = self._targets.policy
        number = split_number(shard_key)
        tag = choose_backend(policy, number)
        if tag is None:
            answer.set_exception(no_traffic_error(self._endpoint))
            return
        if policy.shadows and not is_copied:
            for shadow in choose_shadows(policy, number):
                self.send_to(shadow, call).add_done_callback(_ignore)
        answer.attempt = self._backends[tag].submit(call, answer)

    def _rehome(self, call: Call, answer: asyncio.Future[object]) -> None:
        """Its backend left the traffic while it waited: the new policy decides."""
        assert isinstance(answer, Answer)  # made in send()
        shard_key = call.headers[SHARD_KEY_HEADER]
        if self._targets is None:
            self._wait_for_endpoint(call, shard_key, answer)
        else:
            self._route(call, shard_key, answer, is_copied=True)

    def _wait_for_endpoint(self, call: Call, shard_key: str | None, answer: Answer) -> None:
        self._homeless.append((call, shard_key, answer))

        def give_up() -> None:
            if not answer.done() and self._targets is None:
                answer.set_exception(unknown_endpoint_error(self._endpoint))

        asyncio.get_running_loop().call_later(UNKNOWN_ENDPOINT_S, give_up)


def no_traffic_error(endpoint: str) -> RayServeException:
    """What a call to an endpoint without traffic gets."""
    return RayServeException(
        f"Endpoint '{endpoint}' has no backend in its traffic. Give it one with "
        f"serve.set_traffic({endpoint!r}, {{backend_tag: 1.0}})."
    )


def unknown_endpoint_error(endpoint: str) -> RayServeException:
    """What a call gets whose endpoint did not come into being."""
    return RayServeException(
        f"Endpoint {endpoint} doesn't exist after {UNKNOWN_ENDPOINT_S:g}s timeout. Marking the query failed. "
        f"Create it with serve.create_endpoint({endpoint!r}, backend=...)."
    )


def _ignore(answer: asyncio.Future[object]) -> None:
    if not answer.cancelled():
        answer.exception()  # a shadow's failure is nobody's
