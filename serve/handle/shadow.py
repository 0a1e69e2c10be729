"""Copies of HTTP requests to shadow backends, sent by the replica that got the request."""

from __future__ import annotations

import asyncio
import logging
import time

from observability.instrument.context import request_context
from observability.instrument.supervision import watch_task
from serve.call import CALL_METHOD_HEADER, Call
from serve.context import get_replica_context
from serve.handle.registry import open_registry
from serve.ids import make_request_id
from serve.request import HTTPRequest

logger = logging.getLogger("ray.serve")

_tasks: set[asyncio.Task[None]] = set()


def send_copies(endpoint: str, backend_tags: list[str], request: HTTPRequest) -> None:
    """Send a copy to each backend; what they answer is thrown away."""
    controller_name = get_replica_context()._internal_controller_name
    context = request_context.get()
    request_id = make_request_id() if context is None else context.request_id
    headers = {} if context is None else context.trace_headers
    method = request.headers.get(CALL_METHOD_HEADER, "__call__")
    call = Call(
        request,
        {},
        method,
        endpoint,
        request_id,
        request.method,
        parent_id="" if context is None else context.refer(),
        traceparent=headers.get("traceparent", ""),
        tracestate=headers.get("tracestate", ""),
        sent_us=time.time_ns() // 1000,
        is_shadow=True,
    )
    task = asyncio.get_running_loop().create_task(_send(controller_name, backend_tags, call))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    watch_task("copy to a shadow", task)


async def _send(controller_name: str, backend_tags: list[str], call: Call) -> None:
    registry = await asyncio.wrap_future(open_registry(controller_name))
    await asyncio.wrap_future(registry.subscribe(call.endpoint))
    router = registry.router(call.endpoint)
    for tag in backend_tags:
        try:
            await router.send_to(tag, call)
        except Exception as error:  # noqa: BLE001 - a shadow's failure is nobody's but the log's
            logger.debug("Shadow '%s' of endpoint '%s': %s", tag, call.endpoint, error)
