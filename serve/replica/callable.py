"""The user's callable inside a replica: built once, its methods run the way each needs.

`async` code runs on the event loop. Blocking code, the constructor included, runs in the handler
threads, so that the loop keeps answering and libraries that want one thread get it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from observability.instrument.waits import own_waits
from serve.asgi import bind_routes
from serve.batch_queue import BatchQueue
from serve.batching import accepts_batches
from serve.config import BackendConfig, Traits
from serve.definition import ASGI_APP, Definition, takes_request
from serve.errors import NotExposedError, RayServeException
from serve.exposure import CALL, is_exposable, is_exposed
from serve.replica.threads import HandlerThreads


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the callable and how it wants to be called."""

    function: Callable[..., Any]
    is_async: bool
    takes_request: bool
    is_batched: bool


class UserCallable:
    """The callable of one replica.

    Args:
        backend_tag: for messages.
        definition: what to build.
        traits: what kind it is.
        config: its configuration.
        threads: where blocking code runs.
    """

    def __init__(
        self,
        backend_tag: str,
        definition: Definition,
        traits: Traits,
        config: BackendConfig,
        threads: HandlerThreads,
    ) -> None:
        self._backend_tag = backend_tag
        self._definition = definition
        self._traits = traits
        self._config = config
        self._threads = threads
        self._object: Any = None
        self._methods: dict[str, Method] = {}
        self._batches: dict[str, BatchQueue] = {}
        self._exposed = frozenset({CALL})

    @property
    def asgi_app(self) -> Any:
        """The application that answers HTTP, or None when the callable itself does."""
        if not self._traits.is_asgi:
            return None
        return getattr(type(self._object), ASGI_APP, None) or self._object

    async def build(self) -> None:
        """Make the callable and hand it its `user_config`. Raises what the user's code raises."""
        target = self._definition.target
        if not inspect.isclass(target):
            self._object = target
        else:
            definition = self._definition
            construct = partial(target, *definition.init_args, **definition.init_kwargs)
            blocks = self._traits.is_blocking
            self._object = await self._threads.run(construct) if blocks else construct()
        if self._traits.is_asgi and inspect.isclass(target):
            bind_routes(self.asgi_app, self._object)
        self._exposed = self._list_exposed(self._config)
        if self._config.user_config is not None:
            await self.reconfigure(self._config)

    async def reconfigure(self, config: BackendConfig) -> None:
        """Take a changed configuration; with a `user_config`, call the class's `reconfigure`.

        Raises:
            RayServeException: a `user_config` and no `reconfigure` method, or an exposed method
                that the class does not have.
        """
        exposed = self._list_exposed(config)
        if config.user_config is not None:
            method = getattr(self._object, "reconfigure", None)
            if method is None or not inspect.isclass(self._definition.target):
                raise RayServeException(
                    f"user_config specified but backend {self._backend_tag} missing reconfigure "
                    "method. Add 'def reconfigure(self, user_config)' to the class, or leave "
                    "user_config out."
                )
            if inspect.iscoroutinefunction(method):
                await method(config.user_config)
            else:
                await self._threads.run(method, config.user_config)
        self._config, self._exposed = config, exposed
        self._threads.resize(config.handler_threads)
        for queue in self._batches.values():
            queue.max_batch_size = config.max_batch_size or 1
            queue.wait_timeout_s = config.batch_wait_timeout

    def find(self, name: str) -> Method:
        """The method of that name. RayServeException names those there are."""
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._look_up(name)
        return method

    def check_exposed(self, name: str) -> None:
        """Refuse a method that a client must not name. NotExposedError names those it may."""
        if name not in self._exposed:
            offered = ", ".join(map(repr, sorted(self._exposed)))
            raise NotExposedError(
                f"Backend '{self._backend_tag}' offers no method {name!r} to HTTP requests; it "
                f"offers {offered}. Offer more with @serve.expose, or with exposed_methods in the "
                "backend's configuration."
            )

    @property
    def waiting(self) -> int:
        """How many requests wait for a thread, or for their batch."""
        return self._threads.waiting + sum(queue.waiting for queue in self._batches.values())

    def run(self, name: str, method: Method, request: object) -> Awaitable[Any]:
        """Run a method for one request. Its waits together are at most `queue_timeout_s`."""
        if method.is_batched:
            limit_s = self._config.queue_timeout_s - own_waits().gate_s
            return self._batch_queue(name, method).put(request, limit_s)
        if method.is_async:
            result: Awaitable[Any] = (
                method.function(request) if method.takes_request else method.function()
            )
            return result
        args = (request,) if method.takes_request else ()
        waits = own_waits()
        limit_s = self._config.queue_timeout_s - waits.gate_s
        return self._threads.run_request(method.function, *args, waits=waits, limit_s=limit_s)

    def discard(self) -> None:
        """Let go of the callable, so that its `__del__` runs now."""
        self._methods.clear()
        self._batches.clear()
        self._object = None

    def _list_exposed(self, config: BackendConfig) -> frozenset[str]:
        """Names of the methods that a client may name. Looked for once, and not in properties."""
        cls = type(self._object)
        for name in config.exposed_methods:
            if name != CALL and (
                self._traits.is_function or not callable(getattr(cls, name, None))
            ):
                raise RayServeException(
                    f"exposed_methods of backend '{self._backend_tag}' names {name!r}, which it "
                    f"doesn't have. Its methods are {self._available()}."
                )
        marked = (name for name in dir(cls) if is_exposed(getattr(cls, name, None)))
        return frozenset({CALL, *config.exposed_methods, *filter(is_exposable, marked)})

    def _look_up(self, name: str) -> Method:
        is_own = self._traits.is_function and not self._traits.is_asgi
        if is_own and name == "__call__":
            function = self._object
        else:
            is_hidden = name.startswith("_") and name != "__call__"
            function = None if is_hidden or is_own else getattr(self._object, name, None)
        if not callable(function) or (self._traits.is_asgi and name == "__call__"):
            raise RayServeException(
                f"Backend doesn't have method {name} which is specified in the request. The "
                f"available methods are {self._available()}. (Backend '{self._backend_tag}'.)"
            )
        call = function if inspect.isroutine(function) else type(function).__call__
        batched = accepts_batches(function) or (
            name == "__call__" and accepts_batches(type(self._object))
        )
        return Method(
            function,
            inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(function),
            takes_request(function),
            batched,
        )

    def _available(self) -> list[str]:
        if self._traits.is_function and not self._traits.is_asgi:
            return ["__call__"]
        names = [name for name in dir(type(self._object)) if not name.startswith("_")]
        if "__call__" in dir(type(self._object)) and not self._traits.is_asgi:
            names.insert(0, "__call__")
        return [name for name in names if callable(getattr(type(self._object), name, None))]

    def _batch_queue(self, name: str, method: Method) -> BatchQueue:
        queue = self._batches.get(name)
        if queue is None:

            async def run_batch(requests: list[Any]) -> object:
                if method.is_async:
                    return await method.function(requests)
                return await self._threads.run_request(method.function, requests, waits=own_waits())

            size, wait = self._config.max_batch_size or 1, self._config.batch_wait_timeout
            queue = self._batches[name] = BatchQueue(run_batch, size, wait)
        return queue
