"""The request that code works for: one context object a request, in one context variable."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from random import getrandbits
from typing import Any


@dataclass(slots=True)
class RequestContext:
    """Facts of a request that everything done for it carries.

    Attributes:
        request_id: the client's or a new one.
        endpoint: the endpoint it came through; "" outside one.
        route: the endpoint's route pattern; "" for calls through a handle.
        trace_id: of the W3C trace it belongs to, 32 hexadecimal digits; "" without one.
        span_id: this step of the request, 16 hexadecimal digits; "" until something refers to it.
        parent_id: span_id of the step that made this call; "" for what comes from outside.
        batch_size: requests of the batch that it is handled in.
        batch_ids: of code that works for a batch, the ids of all its requests.
    """

    request_id: str
    endpoint: str = ""
    route: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    batch_size: int = 1
    batch_ids: tuple[str, ...] = ()

    def refer(self) -> str:
        """The span_id, made now if there is none: most requests call nobody and need none."""
        if not self.span_id:
            self.span_id = f"{getrandbits(64) or 1:016x}"
        return self.span_id


def join_contexts(contexts: list[RequestContext | None]) -> RequestContext | None:
    """What code that works for several requests at once works for.

    Of one request, that one. Of several, what they have in common, and all their ids.
    """
    known = [context for context in contexts if context is not None]
    for context in known:
        context.batch_size = len(contexts)
    if len(contexts) == 1 or not known:
        return contexts[0]
    endpoints, routes = {c.endpoint for c in known}, {c.route for c in known}
    return RequestContext(
        "",
        endpoints.pop() if len(endpoints) == 1 else "",
        routes.pop() if len(routes) == 1 else "",
        batch_ids=tuple(context.request_id for context in known),
    )


request_context: ContextVar[RequestContext | None] = ContextVar("tagtrail_request", default=None)
"""The current request, copied into asyncio tasks and into handler threads."""


def carry_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, bound to the request it is made in: for threads that a handler starts.

    `threading.Thread(target=serve.carry_context(work))`, `pool.submit(serve.carry_context(work))`:
    what it logs, and the calls it makes, belong to the request. asyncio tasks need no help.
    """
    context = copy_context()

    def run(*args: Any, **kwargs: Any) -> Any:
        # A copy for each run: a context can't be entered twice at once.
        return context.copy().run(function, *args, **kwargs)

    return run
