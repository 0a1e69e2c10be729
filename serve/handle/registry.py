"""What a process knows of an instance's endpoints, and the routers built on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from observability.catalog import BACKEND_QUEUED
from observability.instrument.numbers import Family, process_numbers
from observability.instrument.supervision import keep_running, watch_task
from observability.instrument.tracing import start_tracing
from serve.errors import RayServeException, ReplicaUnavailableError
from serve.handle.actors import ActorRouter
from serve.handle.replicas import PendingCall
from serve.handle.router import Router
from serve.ids import NAMESPACE
from serve.records import EndpointTargets, ReplicaAddress, endpoint_key
from serve.settings import read_tracing
from serve.transport.auth import AuthError
from serve.transport.client import Connection, connect
from serve.transport.loopthread import LoopThread, get_loop_thread
from serve.watcher import Watcher

logger = logging.getLogger("ray.serve")

DRIVER = "driver"
"""Component and service of a process that is no part of the instance, in its traces."""

FIRST_VALUE_S = 30.0
SWEEP_S = 1.0

WATCHER = "watch for endpoints' changes"
SWEEP = "sweep of actor calls"
GUARD = "guard of a loop's connections"


class LoopRouters:
    """The routers of one event loop, closed when the loop ends."""

    def __init__(self) -> None:
        self.by_endpoint: dict[str, Router] = {}
        self._guard: AsyncGenerator[None, None] | None = None
        self._guard_start: asyncio.Task[None] | None = None

    def start_guard(self) -> None:
        """Close the connections with the loop: `asyncio.run` closes async generators at its end."""
        self._guard_start = asyncio.get_running_loop().create_task(self._enter_guard())
        watch_task(GUARD, self._guard_start)

    async def _enter_guard(self) -> None:
        async def until_loop_ends() -> AsyncGenerator[None, None]:
            try:
                yield
            finally:
                self.close()

        self._guard = until_loop_ends()
        await self._guard.__anext__()

    def close(self) -> None:
        """Close every connection."""
        for router in self.by_endpoint.values():
            router.close()
        self.by_endpoint.clear()
        self._guard = self._guard_start = None  # they know the loop: it would never be let go


class Registry:
    """One instance's endpoints as this process sees them.

    Args:
        controller_name: the instance's controller.
    """

    def __init__(self, controller_name: str) -> None:
        try:
            controller = ray.get_actor(controller_name, namespace=NAMESPACE)
        except ValueError:
            raise RayServeException(
                f"The handle's instance '{controller_name}' is not on this Ray cluster any more. "
                "Get a new handle with serve.get_handle() from the instance that runs, or start "
                "one with serve.start()."
            ) from None
        self._controller_name = controller_name
        self.is_closed = False
        self._secret = _ask_secret(controller, controller_name)
        self._node_id: str = ray.get_runtime_context().get_node_id()
        self._thread: LoopThread = get_loop_thread()
        self._values: dict[str, EndpointTargets | None] = {}
        self._actor_routers: dict[str, ActorRouter] = {}
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopRouters] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._watcher = Watcher(controller_name, "", self._apply, "handle")
        self._tasks = [
            self._thread.submit(keep_running(WATCHER, self._watcher.run)),
            self._thread.submit(keep_running(SWEEP, self._sweep)),
        ]

    def subscribe(self, endpoint: str) -> concurrent.futures.Future[None]:
        """Want an endpoint; the future is done once its present value is known.

        It fails when the controller is away for longer than FIRST_VALUE_S; the endpoint is wanted
        all the same, and known once the controller is back.
        """
        return self._thread.submit(self._first_value(endpoint))

    async def _first_value(self, endpoint: str) -> None:
        try:
            await asyncio.wait_for(self._watcher.want(endpoint_key(endpoint)), FIRST_VALUE_S)
        except asyncio.TimeoutError:
            raise _away_error(self._controller_name) from None

    def knows(self, endpoint: str) -> bool:
        """Whether it has heard of the endpoint, be it that there is none."""
        return endpoint_key(endpoint) in self._values

    def get(self, endpoint: str) -> EndpointTargets | None:
        """The endpoint as last published, None when there is no such endpoint."""
        return self._values.get(endpoint_key(endpoint))

    def refresh(self) -> None:
        """See one's own change at once; if the controller is away just now, once it is back."""
        try:
            self._thread.submit(self._watcher.refresh()).result(FIRST_VALUE_S)
        except Exception as error:  # noqa: BLE001 - the change is made; the poll goes on asking
            logger.warning(
                "This process's handles can't ask for the change yet (%s: %s); they follow it once "
                "controller '%s' answers.",
                type(error).__name__,
                error,
                self._controller_name,
            )

    @property
    def thread(self) -> LoopThread:
        """The loop for calls from blocking code."""
        return self._thread

    def router(self, endpoint: str) -> Router:
        """The router of the running loop for an endpoint."""
        loop = asyncio.get_running_loop()
        with self._lock:
            routers = self._loops.get(loop)
            if routers is None:
                routers = self._loops[loop] = LoopRouters()
                routers.start_guard()
            router = routers.by_endpoint.get(endpoint)
            if router is None:
                router = Router(endpoint, self.get(endpoint), self._connect)
                routers.by_endpoint[endpoint] = router
            return router

    def actor_router(self, endpoint: str) -> ActorRouter:
        """The process's router of Ray actor calls for an endpoint."""
        with self._lock:
            router = self._actor_routers.get(endpoint)
            if router is None:
                router = self._actor_routers[endpoint] = ActorRouter(endpoint)
                router.update(self.get(endpoint))
            return router

    def collect(self) -> list[Family]:
        """The calls of this process that wait for a replica, as metrics."""
        family = Family(BACKEND_QUEUED)
        with self._lock:
            routers: list[tuple[str, Router | ActorRouter]] = [
                *self._actor_routers.items(),
                *(r for loop in self._loops.values() for r in loop.by_endpoint.items()),
            ]
        for endpoint, router in routers:
            for tag, count in router.waiting().items():
                family.add((tag, endpoint), float(count))
        return [family, *self._watcher.families()]

    def calls_under_way(self) -> list[PendingCall]:
        """The direct calls of this process that no replica has answered. From any thread."""
        with self._lock:
            routers = [r for loop in self._loops.values() for r in loop.by_endpoint.values()]
        return [pending for router in routers for pending in router.calls_under_way()]

    def close(self) -> None:
        """Stop listening and close the connections of the shared loop."""
        self.is_closed = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._thread.submit(self._watcher.stop)
        for task in self._tasks:
            task.cancel()
        with self._lock:
            loops = list(self._loops.items())
        for loop, routers in loops:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(routers.close)

    async def _connect(self, address: ReplicaAddress) -> Connection:
        try:
            return await connect(address, self._secret, local_node_id=self._node_id)
        except AuthError:
            if not await self._renew_secret():
                raise
            return await connect(address, self._secret, local_node_id=self._node_id)

    async def _renew_secret(self) -> bool:
        """A detached instance that was ended and started anew has another one. Whether it has."""
        before = self._secret
        with contextlib.suppress(ValueError):  # no controller
            controller = await asyncio.to_thread(ray.get_actor, self._controller_name, NAMESPACE)
            # A controller that is away may never answer; the calls wait, and it is asked again.
            answer = asyncio.ensure_future(_result(controller.secret.remote()))
            try:
                self._secret = await asyncio.wait_for(answer, FIRST_VALUE_S)
            except (RayError, asyncio.TimeoutError) as error:
                raise ReplicaUnavailableError(
                    f"Controller '{self._controller_name}' does not tell its secret: {error!r}"
                ) from error
        return self._secret != before

    async def _apply(self, key: str, value: object) -> None:
        assert value is None or isinstance(value, EndpointTargets)
        endpoint = key.partition("/")[2]
        with self._lock:
            self._values[key] = value
            loops = list(self._loops.items())
            actor_router = self._actor_routers.get(endpoint)
        if actor_router is not None:
            actor_router.update(value)
        for loop, routers in loops:
            router = routers.by_endpoint.get(endpoint)
            if router is not None:
                with contextlib.suppress(RuntimeError):  # that loop has ended
                    loop.call_soon_threadsafe(router.update, value)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            for router in list(self._actor_routers.values()):
                router.sweep()


async def _result(reference: Any) -> bytes:
    secret: bytes = await reference
    return secret


_registries: dict[str, Registry] = {}


def _ask_secret(controller: ActorHandle, name: str) -> bytes:
    # Not ray.get: where this is an actor's own thread, Ray would warn of it.
    try:
        secret: bytes = controller.secret.remote().future().result(FIRST_VALUE_S)
    except concurrent.futures.TimeoutError:
        raise _away_error(name) from None
    return secret


def _away_error(name: str) -> RayServeException:
    return RayServeException(
        f"The controller '{name}' did not answer within {FIRST_VALUE_S:g} s. It may be starting "
        "anew, or be cut off: call again. If that does not help, 'ray list actors' tells of it."
    )


_opening: dict[str, concurrent.futures.Future[Registry]] = {}
"""This process's registries, by controller; a future is there from the first who asks on."""

_lock = threading.Lock()


def calls_under_way() -> list[PendingCall]:
    """The direct calls of this process that no replica has answered. From any thread."""
    known = filter(None, map(find_registry, list(_opening)))
    return [pending for registry in known for pending in registry.calls_under_way()]


def open_registry(controller_name: str) -> concurrent.futures.Future[Registry]:
    """This process's registry of an instance, once the controller has answered.

    It is asked in a thread of its own: who calls this is never held up, nor are those who ask for
    another instance.
    """
    with _lock:
        future = _opening.get(controller_name)
        if future is None:
            future = _opening[controller_name] = concurrent.futures.Future()
            future.set_running_or_notify_cancel()  # one who gives up does not end it for the others
            thread = threading.Thread(
                target=_open, args=(controller_name, future), name="serve-registry", daemon=True
            )
            contextvars.Context().run(thread.start)  # it serves all, not who asked first
    return future


def get_registry(controller_name: str) -> Registry:
    """As open_registry, waiting for it."""
    return open_registry(controller_name).result()


def find_registry(controller_name: str) -> Registry | None:
    """This process's registry of an instance, if a handle needed one already."""
    future = _opening.get(controller_name)
    if future is None or not future.done() or future.exception() is not None:
        return None
    return future.result()


def close_registry(controller_name: str) -> None:
    """The instance is gone: forget what is known of it."""
    registry = find_registry(controller_name)
    with _lock:
        _opening.pop(controller_name, None)
    if registry is not None:
        process_numbers.leave(registry.collect)
        registry.close()


def _open(controller_name: str, future: concurrent.futures.Future[Registry]) -> None:
    try:
        registry = Registry(controller_name)
        process_numbers.join(registry.collect)
        # A replica has its traces already; this is a driver, or a task of one.
        start_tracing(read_tracing(), {"component": DRIVER}, DRIVER)
    except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
        with _lock:  # the next one asks anew
            if _opening.get(controller_name) is future:
                del _opening[controller_name]
        future.set_exception(error)
    else:
        future.set_result(registry)
