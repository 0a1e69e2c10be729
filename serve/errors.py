"""What Tagtrail raises. One base class, as in the system it re-implements; subclasses say more."""

from __future__ import annotations

_MOST_HELD = 10
"""How many exceptions of a group are told."""


class RayServeException(Exception):
    """Base of every error that is Tagtrail's own, and not a plain ValueError or TypeError."""


class BackendStartError(RayServeException):
    """A backend did not reach its goal: a constructor raised, or resources are missing."""


class ReplicaDiedError(RayServeException):
    """The replica's process or connection ended after the call was sent and before its answer."""


class ReplicaUnavailableError(RayServeException):
    """The replica did not take the call: it was not executed, another one may."""


class NotExposedError(RayServeException):
    """An HTTP request named a method that its backend does not offer to HTTP requests."""


class NoAnswerError(RayServeException):
    """An ASGI application returned without an answer."""


class QueueFullError(RayServeException):
    """The backend's queue is full: more calls wait than `max_queued_queries` allows."""


class QueueTimeoutError(RayServeException):
    """No replica was free within the backend's `queue_timeout_s`."""


def describe_error(error: BaseException) -> str:
    """An exception in one line, whatever its own text is; of a group, those that it holds too."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise all
        text = "(its text can't be told)"
    held = getattr(error, "exceptions", None)  # no isinstance: Python 3.10 has groups of a package
    if isinstance(held, tuple) and all(isinstance(each, BaseException) for each in held):
        text += f": {'; '.join(map(describe_error, held[:_MOST_HELD]))}"
    return f"{type(error).__name__}: {text}"[:1000]
