"""One backend over all its replicas. Pure."""

from __future__ import annotations

from observability import catalog
from observability.grafana.records import (
    BACKEND,
    Board,
    Panel,
    Query,
    Row,
    Source,
    lines,
    now,
    quantile,
    quantiles,
    rate,
)

OWN = 'backend="$backend"'

BOARD = Board(
    "backend",
    "Tagtrail / Backend",
    "One backend over all its replicas: is it waiting, working or failing?",
    (BACKEND,),
    (
        Row(
            "The backend",
            (
                Panel(
                    "Requests/s and failures",
                    "Shadows included.",
                    (
                        Query('backend:serve_requests:rate5m{backend="$backend"}', "requests"),
                        Query('backend:serve_errors:rate5m{backend="$backend"}', "failed"),
                    ),
                    "reqps",
                ),
                Panel(
                    "How long the handler takes",
                    "Without waiting.",
                    quantiles("backend", "serve_processing_ms", OWN, ""),
                    "ms",
                ),
                Panel(
                    "How long they wait in a replica",
                    "High while the handler is quick: more replicas are needed.",
                    tuple(
                        Query(quantile(share, catalog.QUEUING_LATENCY, OWN), name)
                        for share, name in ((0.5, "p50"), (0.99, "p99"))
                    ),
                    "ms",
                ),
                Panel(
                    "Waiting to be given to a replica",
                    "In HAProxy and in handles.",
                    (
                        Query(
                            f"sum by (endpoint) ({now(catalog.BACKEND_QUEUED, OWN)})",
                            "{{endpoint}}",
                        ),
                    ),
                ),
                Panel(
                    "Answered and raised",
                    "What the replicas counted: queries processed, and exceptions.",
                    (
                        Query(
                            rate(catalog.BACKEND_REQUESTS, OWN),
                            "processed",
                        ),
                        Query(
                            rate(catalog.BACKEND_ERRORS, OWN),
                            "exceptions",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Sizes of batches",
                    "Queries/s by the size of the batch they were in. 1: no batch.",
                    (
                        Query(
                            rate(
                                catalog.PROCESSING_LATENCY,
                                OWN,
                                by="batch_size",
                                part="count",
                            ),
                            "{{batch_size}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
        Row(
            "Its replicas",
            (
                Panel(
                    "Requests/s",
                    "They should share them evenly.",
                    (Query('replica:serve_requests:rate5m{backend="$backend"}', "{{replica}}"),),
                    "reqps",
                ),
                Panel(
                    "p99 of the handler",
                    "One that stands out has a bad machine, or a bad state.",
                    (Query('replica:serve_processing_ms:p99{backend="$backend"}', "{{replica}}"),),
                    "ms",
                ),
                Panel(
                    "Failures/s",
                    "One that stands out fails by itself.",
                    (Query('replica:serve_errors:rate5m{backend="$backend"}', "{{replica}}"),),
                    "reqps",
                ),
                Panel(
                    "Being processed",
                    "At most max_concurrent_queries each.",
                    (Query(now(catalog.REPLICA_PROCESSING, OWN), "{{replica}}"),),
                ),
                Panel(
                    "Started anew after a failure",
                    "Since each replica was made.",
                    (Query(now(catalog.REPLICA_STARTS, OWN), "{{replica}}"),),
                ),
                Panel(
                    "States",
                    "STARTING, RUNNING, UNRESPONSIVE, RESTARTING, STOPPING.",
                    (Query(f"sum by (state) ({now(catalog.REPLICA_STATE, OWN)})", "{{state}}"),),
                ),
            ),
        ),
        Row(
            "What it says",
            (
                lines(
                    "Warnings and errors",
                    "Click on a line for its request id.",
                    '{job="serve", backend="$backend", level=~"WARNING|ERROR|CRITICAL"}',
                    width=16,
                ),
                Panel(
                    "Lines/s by level",
                    "Access records are INFO.",
                    (
                        Query(
                            'sum by (level) (rate({job="serve", backend="$backend"}[$__auto]))',
                            "{{level}}",
                        ),
                    ),
                    source=Source.LOKI,
                ),
            ),
        ),
    ),
)
