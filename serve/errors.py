"""What Tagtrail raises. One base class, as in the system it re-implements; subclasses say more."""

from __future__ import annotations


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


class QueueFullError(RayServeException):
    """The backend's queue is full: more calls wait than `max_queued_queries` allows."""


class QueueTimeoutError(RayServeException):
    """No replica was free within the backend's `queue_timeout_s`."""
