"""The request that code works for: one context object a request, in one context variable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import msgspec

from observability.instrument.traceparent import format_traceparent

SpanLink = tuple[str, str]
"""(trace id, span id) of a span in another trace."""


def new_span_id() -> str:
    """A span id: 16 hexadecimal digits. From the system: user code may seed `random`."""
    return token_hex(8)


def new_ids() -> tuple[str, str, str]:
    """A trace id, 32 hexadecimal digits, and two span ids, for the price of one."""
    digits = token_hex(32)
    return digits[:32], digits[32:48], digits[48:]


class Trace(msgspec.Struct, frozen=True, gc=False):
    """Where a request's step stands in its W3C trace.

    Attributes:
        span_id: of the span that what the step calls hangs under: its own; without tracing, the
            one that came in.
        is_sampled: whether the trace is exported.
        state: `tracestate`, passed on as it came.
        parent_id: span_id of the span it hangs under itself; "" for none.
        ingress_id: span_id of the ingress's span between the two; "" for none.
        links: of a batch's step, the spans of all its requests.
    """

    span_id: str
    is_sampled: bool
    state: str = ""
    parent_id: str = ""
    ingress_id: str = ""
    links: tuple[SpanLink, ...] = ()


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
        batch_ids: of code that works for a batch, and of what that calls, the ids of all its
            requests.
        batch: what the code works for that runs this request's batch; None outside of one.
        trace: where it stands in its W3C trace; None without one.
        waits: what it waited for at its replica, `waits.Waits`; None: for nothing.
    """

    request_id: str
    endpoint: str = ""
    route: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    batch_size: int = 1
    batch_ids: tuple[str, ...] = ()
    trace: Trace | None = None
    waits: Any = None
    batch: RequestContext | None = None

    @property
    def trace_headers(self) -> dict[str, str]:
        """The W3C headers that make another service's work a part of this trace; {} without one.

        `httpx.get(url, headers=serve.get_request_context().trace_headers)`.
        """
        trace = self.trace
        if trace is None or not trace.span_id:
            return {}
        headers = {
            "traceparent": format_traceparent(self.trace_id, trace.span_id, trace.is_sampled)
        }
        if trace.state:
            headers["tracestate"] = trace.state
        return headers

    def refer(self) -> str:
        """The span_id, made now if there is none: most requests call nobody and need none."""
        if not self.span_id:
            self.span_id = new_span_id()
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
    trace_ids = {c.trace_id for c in known}
    is_one_trace = len(trace_ids) == 1
    joined = RequestContext(
        "",
        endpoints.pop() if len(endpoints) == 1 else "",
        routes.pop() if len(routes) == 1 else "",
        trace_ids.pop() if is_one_trace else "",
        batch_ids=tuple(context.request_id for context in known),
        trace=known[0].trace if is_one_trace else _link_traces(known),
    )
    for context in known:
        context.batch = joined
    return joined


def _link_traces(known: list[RequestContext]) -> Trace:
    """What a batch of several traces calls belongs to none of them, and names them all."""
    links = ((c.trace_id, c.trace.span_id) for c in known if c.trace is not None)
    return Trace("", False, links=tuple(links))


request_context: ContextVar[RequestContext | None] = ContextVar("tagtrail_request", default=None)
"""The current request, copied into asyncio tasks and into handler threads."""


def carry_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, bound to the request it is made in, and to all other context variables.

    `queue.put(serve.carry_context(work))`: wherever it is run, what it logs and the calls it makes
    belong to the request. asyncio tasks, threads and pools of threads need no help in a replica.
    """
    context = copy_context()
    request = request_context.get()

    def run(*args: Any, **kwargs: Any) -> Any:
        # A copy for each run: a context can't be entered twice at once.
        try:
            return context.copy().run(function, *args, **kwargs)
        except Exception as error:
            # If nobody catches it, it is told where the context has been left already.
            with contextlib.suppress(AttributeError):  # it may have no room for one
                error.tagtrail_request = request  # type: ignore[attr-defined]
            raise

    return run
