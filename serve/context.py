"""Where code runs: which replica this process is. Set once, before the user's constructor runs."""

from __future__ import annotations

from dataclasses import dataclass

from observability.instrument.context import RequestContext, request_context
from serve.errors import RayServeException


@dataclass(frozen=True)
class ReplicaContext:
    """The replica that this process is.

    Attributes:
        backend_tag: its backend.
        replica_tag: `<backend tag>#<6 letters>`.
    """

    backend_tag: str
    replica_tag: str
    _internal_controller_name: str


_current: ReplicaContext | None = None


def set_replica_context(context: ReplicaContext | None) -> None:
    """Make this process a replica (or, with None, none)."""
    global _current
    _current = context


def owning_controller() -> str | None:
    """Name of the controller this process belongs to, or None outside a backend."""
    return None if _current is None else _current._internal_controller_name


def current_tags() -> tuple[str, str]:
    """(backend tag, replica tag) of this process, both empty outside a backend."""
    return ("", "") if _current is None else (_current.backend_tag, _current.replica_tag)


def get_replica_context() -> ReplicaContext:
    """The backend tag and replica tag of the backend that calls this, its constructor included.

    Raises:
        RayServeException: called from outside a backend.
    """
    return _require("serve.get_replica_context()")


def get_current_backend_tag() -> str:
    """The backend tag of who calls this (Ray Serve 1.2). Raises as `get_replica_context` does."""
    return _require("serve.get_current_backend_tag()").backend_tag


def get_current_replica_tag() -> str:
    """The replica tag of who calls this (Ray Serve 1.2). Raises as `get_replica_context` does."""
    return _require("serve.get_current_replica_tag()").replica_tag


def get_request_context() -> RequestContext:
    """The request that the caller works for: its id, endpoint, route and trace id.

    It follows asyncio tasks, handler threads, and threads and pools of one's own; what reaches a
    thread through a queue needs `serve.carry_context`.

    Raises:
        RayServeException: called outside a request: in a constructor, in a driver, or in a thread
            that was started without its context.
    """
    context = request_context.get()
    if context is None:
        raise RayServeException(
            "`serve.get_request_context()` may only be called while a request is served. Call it "
            "in a handler; for work that reaches a thread through a queue, wrap the function: "
            "queue.put(serve.carry_context(work))."
        )
    return context


def _require(caller: str) -> ReplicaContext:
    if _current is None:
        raise RayServeException(
            f"`{caller}` may only be called from within a Ray Serve backend. Call it in the "
            "function or class that was given to serve.create_backend(), not in the script that "
            "creates it."
        )
    return _current
