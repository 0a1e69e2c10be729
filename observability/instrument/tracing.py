"""The switch of traces.

Off, nothing of OpenTelemetry is imported, and `active` is None: that is all that requests look
at. On, `active` is the process's Tracer.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from observability.instrument.access import AccessRecord
from observability.instrument.context import RequestContext, Trace, request_context
from observability.instrument.numbers import process_numbers
from observability.instrument.spanqueue import CLOSE_S, SpanQueue
from observability.instrument.traceparent import TraceParent
from observability.instrument.tracing_config import TracingConfig

if TYPE_CHECKING:
    from observability.instrument.tracer import Tracer

logger = logging.getLogger("ray.serve")

active: Tracer | None = None
"""None: off."""

_lock = threading.Lock()
_is_decided = False


def start_tracing(config: TracingConfig | None, identity: Mapping[str, Any], service: str) -> None:
    """Switch traces on in this process, if the configuration is one. Called again: nothing.

    Never raises: what is wrong is told, and they stay off.

    Args:
        config: None: they stay off.
        identity: fields of the process's records: component, backend, replica, node, pid.
        service: its service name, unless the environment gives one.
    """
    global active, _is_decided
    with _lock:
        if _is_decided:
            return
        _is_decided = True
        if config is None:
            return
        try:
            active = _make_tracer(config, identity, service)
        except Exception as error:  # noqa: BLE001 - foreign code and variables: serving goes on
            logger.warning("Traces are asked for by OTEL_* variables, but stay off: %s.", error)
            return
    for complaint in config.complaints:
        logger.warning("Traces: %s.", complaint)
    atexit.register(stop_tracing)
    os.register_at_fork(after_in_child=_forget)


def stop_tracing(limit_s: float = CLOSE_S) -> None:
    """Export what waits, for so long at most, and switch traces off for good."""
    global active
    with _lock:
        tracer, active = active, None
    if tracer is not None:
        tracer.queue.close(limit_s)


def join_trace(
    context: RequestContext,
    caller: TraceParent | None,
    state: str = "",
    *,
    through_ingress: bool = False,
) -> None:
    """Make a step part of its caller's trace; without tracing it only hands that on.

    Args:
        context: of the step.
        caller: who called, by its own words.
        state: its `tracestate`.
        through_ingress: an ingress stands between the two.
    """
    if active is not None:
        active.join(context, caller, state, through_ingress)
    elif caller is not None:
        context.trace_id = caller.trace_id
        context.trace = Trace(caller.span_id, caller.is_sampled, state)


def end_at_ingress(record: AccessRecord, caller: TraceParent | None) -> None:
    """A request ended that no replica answered: its ingress tells of it. Fills in its ids."""
    if active is not None:
        active.end_at_ingress(record, caller)
    elif caller is not None:
        record.trace_id = caller.trace_id


def enter(context: RequestContext | None) -> None:
    """Work for a request from now on, in this task."""
    request_context.set(context)
    if active is not None:
        active.show(context)


def _make_tracer(config: TracingConfig, identity: Mapping[str, Any], service: str) -> Tracer:
    from observability.instrument.exporters import Exports, load_exporters
    from observability.instrument.spans import SpanMaker
    from observability.instrument.tracer import Tracer

    maker = SpanMaker(identity, service)
    exports = Exports(load_exporters(config.exporters), maker)
    labels = tuple(str(identity.get(name, "")) for name in ("component", "backend", "replica"))
    queue = SpanQueue(
        exports, config.queue_size, config.batch_size, config.delay_s, labels, exports.close
    )
    queue.start()
    process_numbers.join(queue.collect)
    return Tracer(config.sampler, queue, maker.resource)


def _forget() -> None:
    """In a forked child: the thread that exports is the parent's."""
    global active
    active = None
