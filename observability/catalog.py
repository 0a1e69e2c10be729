"""Every metric, written once: the docs' table, dashboards and contract tests derive from it.

The first eleven are Ray Serve 1.3.0's, with its names, tags, descriptions and buckets. Where its
code and its documentation disagree, the documented meaning holds. What a replica counts has its tag
on top: so counts of several processes add up instead of overwriting each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class MetricKind(str, Enum):
    """What a number does."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as code names it; exported with `ray_` before it, a counter with `_total` behind it.
        kind: counter, gauge or histogram.
        tags: its labels.
        description: for people, with the unit.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: MetricKind
    tags: tuple[str, ...]
    description: str
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that its series have in Prometheus."""
        name = f"ray_{self.name}"
        if self.kind is MetricKind.COUNTER:
            return (f"{name}_total",)
        if self.kind is MetricKind.HISTOGRAM:
            return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
        return (name,)


LATENCY_BUCKETS_MS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0),
    *(1000.0, 1250.0, 1500.0, 2000.0, 3000.0, 5000.0, 10_000.0, 30_000.0, 60_000.0),
)
"""Ray Serve 1.3.0's, and more: a time near 1 s must not look like 2 s."""

_C, _G, _H = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

BACKEND_REQUESTS = Metric(
    "serve_backend_request_counter",
    _C,
    ("backend", "replica"),
    "The number of queries that have been processed in this replica.",
)
BACKEND_ERRORS = Metric(
    "serve_backend_error_counter",
    _C,
    ("backend", "replica"),
    "The number of exceptions that have occurred in the backend.",
)
REPLICA_STARTS = Metric(
    "serve_backend_replica_starts",
    _C,
    ("backend", "replica"),
    "The number of times this replica has been restarted due to failure.",
)
QUEUING_LATENCY = Metric(
    "serve_backend_queuing_latency_ms",
    _H,
    ("backend", "replica"),
    "The latency for queries in the replica's queue waiting to be processed.",
    LATENCY_BUCKETS_MS,
)
PROCESSING_LATENCY = Metric(
    "serve_backend_processing_latency_ms",
    _H,
    ("backend", "replica", "batch_size"),
    "The latency for queries to be processed.",
    LATENCY_BUCKETS_MS,
)
REPLICA_QUEUED = Metric(
    "serve_replica_queued_queries",
    _G,
    ("backend", "replica"),
    "The current number of queries queued in the backend replicas.",
)
REPLICA_PROCESSING = Metric(
    "serve_replica_processing_queries",
    _G,
    ("backend", "replica"),
    "The current number of queries being processed.",
)
HTTP_REQUESTS = Metric(
    "serve_num_http_requests",
    _C,
    ("route", "replica"),
    "The number of HTTP requests processed.",
)
ROUTER_REQUESTS = Metric(
    "serve_num_router_requests",
    _C,
    ("endpoint", "replica"),
    "The number of requests processed by the router.",
)
HANDLE_REQUESTS = Metric(
    "serve_handle_request_counter",
    _C,
    ("handle", "endpoint"),
    "The number of handle.remote() calls that have been made on this handle.",
)
BACKEND_QUEUED = Metric(
    "serve_backend_queued_queries",
    _G,
    ("backend", "endpoint"),
    "The current number of queries to this backend waiting to be assigned to a replica.",
)

SEED_METRICS = (
    BACKEND_REQUESTS,
    BACKEND_ERRORS,
    REPLICA_STARTS,
    QUEUING_LATENCY,
    PROCESSING_LATENCY,
    REPLICA_QUEUED,
    REPLICA_PROCESSING,
    HTTP_REQUESTS,
    ROUTER_REQUESTS,
    HANDLE_REQUESTS,
    BACKEND_QUEUED,
)

ENDPOINT_REQUESTS = Metric(
    "serve_endpoint_requests",
    _C,
    ("endpoint", "backend", "replica", "status_class", "way"),
    "Requests that ended, by the class of their status (2xx, 4xx, ...) and the way they came "
    "(http, websocket, call, remote, shadow). Those that no replica answered have no replica.",
)
ENDPOINT_LATENCY = Metric(
    "serve_endpoint_latency_ms",
    _H,
    ("endpoint", "backend", "replica"),
    "What those who asked waited for a replica's answer, in its queue and for its handler. Without "
    "shadows: nobody waits for them.",
    LATENCY_BUCKETS_MS,
)
REPLICA_STATE = Metric(
    "serve_replica_state",
    _G,
    ("backend", "replica", "state"),
    "1 for the state that a replica is in: STARTING, RUNNING, UNRESPONSIVE (its event loop does "
    "not answer, so it is ended and started anew), RESTARTING or STOPPING.",
)
STAGE_TIME = Metric(
    "serve_stage_ms",
    _C,
    ("backend", "replica", "stage"),
    "Milliseconds that requests spent: stage `sender` (at the ingress or caller, and on the way), "
    "`replica` (waiting for a place or a thread), `batch`, `run` (the user's code), `send`.",
)
LOOP_LAG = Metric(
    "serve_replica_loop_lag_ms",
    _G,
    ("backend", "replica"),
    "How late the replica's event loop ran a timer in the last second, the worst, milliseconds.",
)
RECORDS_WRITTEN = Metric(
    "serve_records_written",
    _C,
    ("component", "backend", "replica"),
    "Records written to the segments.",
)
RECORDS_DROPPED = Metric(
    "serve_records_dropped",
    _C,
    ("component", "backend", "replica"),
    "Records that could not be written: the disk is full, say, or HAProxy could not hand over its "
    "line.",
)
RECORDS_SAMPLED = Metric(
    "serve_records_left_out",
    _C,
    ("component",),
    "Access records of requests that no endpoint takes that were not written: past a rate, one of "
    "100 is. The requests are counted all the same.",
)
SPANS_DROPPED = Metric(
    "serve_spans_dropped",
    _C,
    ("component", "backend", "replica"),
    "Spans that were not exported: the collector was away, or too slow. Only with traces on.",
)
TASK_FAILURES = Metric(
    "serve_task_failures",
    _C,
    ("component", "backend", "replica", "task"),
    "Failures of what a process does all the time, the ingress's keeper for instance. Each is "
    "logged as an error, and the task is begun again.",
)
UPDATE_FAILURES = Metric(
    "serve_update_failures",
    _C,
    ("listener",),
    "Attempts to apply what the controller says that failed, by what listens (ingress, handle). "
    "Each is tried again; 'tagtrail status' shows what an ingress can't apply.",
)
CONTROLLER_LOOP = Metric(
    "serve_controller_loop_ms",
    _G,
    (),
    "How long the last step of the controller's loop took, milliseconds.",
)

EXTRA_METRICS = (
    ENDPOINT_REQUESTS,
    ENDPOINT_LATENCY,
    REPLICA_STATE,
    STAGE_TIME,
    LOOP_LAG,
    RECORDS_WRITTEN,
    RECORDS_DROPPED,
    RECORDS_SAMPLED,
    SPANS_DROPPED,
    TASK_FAILURES,
    UPDATE_FAILURES,
    CONTROLLER_LOOP,
)

METRICS = (*SEED_METRICS, *EXTRA_METRICS)
