"""The one shape of a handle's call, from the handle down to the user's method."""

from __future__ import annotations

from typing import Any, NamedTuple

CALL_METHOD_HEADER = "X-Serve-Call-Method"
SHARD_KEY_HEADER = "X-Serve-Shard-Key"


class Call(NamedTuple):
    """One call.

    Attributes:
        data: the object that is sent; an HTTPRequest is passed through as it is.
        kwargs: keyword arguments, seen as `request.query_params`.
        method: name of the backend's method.
        endpoint: the endpoint it goes to.
        request_id: id of the request it belongs to.
        http_method: seen as `request.method`.
        headers: seen as `request.headers`.
    """

    data: Any
    kwargs: dict[str, Any]
    method: str
    endpoint: str
    request_id: str
    http_method: str
    headers: dict[str, Any]
