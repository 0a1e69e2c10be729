"""What a handler is given: HTTPRequest from HTTP, ServeRequest from a handle. They read alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from serve.call import CALL_METHOD_HEADER, SHARD_KEY_HEADER, Call
from serve.errors import RayServeException

_FACTS = frozenset(
    {
        "client",
        "headers",
        "http_version",
        "method",
        "path",
        "path_params",
        "query_string",
        "raw_path",
        "root_path",
        "scheme",
        "server",
        "type",
    }
)


class HTTPRequest(Request):
    """A starlette Request that blocking code can read too, and that pickles once it is read."""

    @property
    def data(self) -> bytes:
        """The whole body. For blocking handlers; in `async` ones, `await request.body()`.

        Raises:
            RayServeException: called on the event loop before the body was read.
        """
        if not hasattr(self, "_body"):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return asyncio.run(self.body())
            raise RayServeException(
                "request.data would block the event loop. In an async handler, read the body with "
                "'await request.body()'."
            )
        return self._body

    def __reduce__(self) -> tuple[Callable[..., HTTPRequest], tuple[dict[str, Any], bytes]]:
        if not hasattr(self, "_body"):
            raise RayServeException(
                "An HTTP request can be sent on only after its body was read. "
                "Call 'await request.body()' first, or send on the parts you need."
            )
        return rebuild_request, (copy_facts(self.scope), self._body)


def copy_facts(scope: Scope) -> dict[str, Any]:
    """The part of a scope that describes the request, without what belongs to its connection."""
    return {key: value for key, value in scope.items() if key in _FACTS}


def rebuild_request(scope: dict[str, Any], body: bytes) -> HTTPRequest:
    """An HTTPRequest from its facts and its whole body."""
    return HTTPRequest(scope, _receive_once(body))


def cross_loop_receive(receive: Receive, loop: asyncio.AbstractEventLoop) -> Receive:
    """A `receive` for another loop than the server's: a blocking handler's own."""

    async def receive_there() -> Message:
        future = asyncio.run_coroutine_threadsafe(_call(receive), loop)
        return await asyncio.wrap_future(future)

    return receive_there


async def _call(receive: Receive) -> Message:
    return await receive()


def _receive_once(body: bytes) -> Receive:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


class QueryParams(dict[str, Any]):
    """A handle call's keyword arguments, Python types kept."""

    def getlist(self, key: str) -> list[Any]:
        """All values of a key, as starlette's query parameters have it."""
        if key not in self:
            return []
        value = self[key]
        return list(value) if isinstance(value, list) else [value]


class ServeRequest:
    """What a handler gets from `handle.remote(data, **kwargs)` and `handle.call(...)`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        """Store the call; most handlers look at little of it."""
        self._call = call

    @property
    def data(self) -> Any:
        """The object that was sent, any type."""
        return self._call.data

    @property
    def method(self) -> str:
        """The `http_method` option, default GET."""
        return self._call.http_method

    @property
    def headers(self) -> dict[str, Any]:
        """The `http_headers` option, with the method called and the shard key beside them."""
        call = self._call
        own = {CALL_METHOD_HEADER: call.method, SHARD_KEY_HEADER: call.shard_key}
        return {**own, **(call.headers or {})}

    @property
    def query_params(self) -> QueryParams:
        """The keyword arguments, Python types kept."""
        return QueryParams(self._call.kwargs)

    async def body(self) -> Any:
        """The object that was sent, any type."""
        return self._call.data

    async def json(self) -> dict[str, Any]:
        """The dictionary that was sent. RayServeException for anything else."""
        return self._dictionary()

    async def form(self) -> dict[str, Any]:
        """The dictionary that was sent. RayServeException for anything else."""
        return self._dictionary()

    def _dictionary(self) -> dict[str, Any]:
        data = self._call.data
        if not isinstance(data, dict):
            raise RayServeException(
                f"Request data is not a dictionary. It is {type(data)}. Send one with "
                "handle.remote({...}), or read it with 'await request.body()'."
            )
        return data
