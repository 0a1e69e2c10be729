"""The request that code works for: one context object a request, in one context variable."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """Facts of a request that everything done for it carries.

    Attributes:
        request_id: the client's or a new one.
        endpoint: the endpoint it came through; "" outside one.
        route: the endpoint's route pattern; "" for calls through a handle.
    """

    request_id: str
    endpoint: str = ""
    route: str = ""


request_context: ContextVar[RequestContext | None] = ContextVar("tagtrail_request", default=None)
"""The current request, copied into asyncio tasks and into handler threads."""
