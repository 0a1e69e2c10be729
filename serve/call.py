"""The one shape of a handle's call, from the handle down to the user's method."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

CALL_METHOD_HEADER = "X-Serve-Call-Method"
SHARD_KEY_HEADER = "X-Serve-Shard-Key"


class Call(NamedTuple):
    """One call. It travels as a plain tuple: a class of ours would take pickle four times as long.

    Attributes:
        data: the object that is sent; an HTTPRequest is passed through as it is.
        kwargs: keyword arguments, seen as `request.query_params`.
        method: name of the backend's method.
        endpoint: the endpoint it goes to.
        request_id: id of the request it belongs to.
        http_method: seen as `request.method`.
        shard_key: equal keys reach the same backend; None: by chance.
        headers: the ones given, seen as `request.headers` beside Tagtrail's own two.
        parent_id: span_id of the request's step that makes the call; "" outside a request.
        traceparent: the span that makes the call, as W3C's header; "" without a trace.
        tracestate: what goes with it.
        sent_us: when it was made, microseconds since the epoch; 0: not known.
        is_shadow: it is the copy of an HTTP request, and whoever sent that chose the method.
        batch_ids: of a call that is made for a batch, the ids of all its requests.
    """

    data: Any
    kwargs: dict[str, Any]
    method: str
    endpoint: str
    request_id: str
    http_method: str = "GET"
    shard_key: str | None = None
    headers: dict[str, str] | None = None
    parent_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    sent_us: int = 0
    is_shadow: bool = False
    batch_ids: tuple[str, ...] = ()


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_PLAIN_BYTES = 65_536


def pack_call(call: Call) -> tuple[Any, ...]:
    """A call as the arguments of a Ray actor call; `unpack_call` takes them.

    Each argument costs Ray some 100 microseconds, most of them for anything that is not bytes, so
    what is plain travels as one. The rest is left to Ray: it resolves an ObjectRef that stands
    alone, counts those inside, and keeps large arrays in shared memory.
    """
    if _is_plain(call.data) and all(map(_is_plain, call.kwargs.values())):
        return (pickle.dumps(tuple(call), 5),)
    packed = pickle.dumps(tuple(call._replace(data=None, kwargs={})), 5)
    return packed, call.data, call.kwargs


def unpack_call(packed: bytes, *rest: Any) -> Call:
    """The call that `pack_call` took apart."""
    call = Call(*pickle.loads(packed))
    return call._replace(data=rest[0], kwargs=rest[1]) if rest else call


def _is_plain(value: object) -> bool:
    kind = type(value)
    return kind in _PLAIN and (kind not in (str, bytes) or len(value) < _PLAIN_BYTES)  # type: ignore[arg-type]
