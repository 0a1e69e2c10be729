"""Single replicas. Pure."""

from __future__ import annotations

from observability import catalog
from observability.grafana.records import (
    BACKEND,
    REPLICA,
    Board,
    Panel,
    Query,
    Row,
    lines,
    mean,
    now,
    quantiles,
    rate,
)

OWN = 'replica=~"$replica"'

BOARD = Board(
    "replica",
    "Tagtrail / Replica",
    "Single replicas of a backend: load, times, the event loop, what they say.",
    (BACKEND, REPLICA),
    (
        Row(
            "The replica",
            (
                Panel(
                    "Requests/s and failures",
                    "Shadows included.",
                    (
                        Query('replica:serve_requests:rate5m{replica=~"$replica"}', "{{replica}}"),
                        Query(
                            'replica:serve_errors:rate5m{replica=~"$replica"}', "{{replica}} failed"
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "How long the handler takes",
                    "Without waiting.",
                    quantiles("replica", "serve_processing_ms", OWN, "{{replica}} "),
                    "ms",
                ),
                Panel(
                    "Being processed, and waiting",
                    "Waiting: taken by the replica, not yet begun.",
                    (
                        Query(now(catalog.REPLICA_PROCESSING, OWN), "{{replica}} processed"),
                        Query(now(catalog.REPLICA_QUEUED, OWN), "{{replica}} waiting"),
                    ),
                ),
                Panel(
                    "Where a request's time goes",
                    "Mean of each stage. sender: at the ingress or caller. replica: waiting for a "
                    "place or a thread. batch: for it. run: the user's code. send: the client.",
                    (
                        Query(
                            f"{rate(catalog.STAGE_TIME, OWN, by='stage')} / scalar("
                            f"{rate(catalog.QUEUING_LATENCY, OWN, part='count')})",
                            "{{stage}}",
                        ),
                    ),
                    "ms",
                ),
                Panel(
                    "The event loop's lag",
                    "How late a timer ran, the worst of each second. High: something blocks it.",
                    (Query(now(catalog.LOOP_LAG, OWN), "{{replica}}"),),
                    "ms",
                ),
                Panel(
                    "Records/s",
                    "Written to the segments, and lost: a full disk, say.",
                    (
                        Query(
                            rate(catalog.RECORDS_WRITTEN, OWN, by="replica"),
                            "{{replica}}",
                        ),
                        Query(
                            rate(catalog.RECORDS_DROPPED, OWN, by="replica"),
                            "{{replica}} lost",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "By endpoint",
                    "Mean time that those who asked waited for an answer.",
                    (
                        Query(
                            mean(catalog.ENDPOINT_LATENCY, OWN, by="endpoint"),
                            "{{endpoint}}",
                        ),
                    ),
                    "ms",
                ),
            ),
        ),
        Row(
            "What it says",
            (
                lines(
                    "All its lines",
                    "The replica is metadata, not a label: replicas come and go.",
                    '{job="serve", backend="$backend"} | replica=~"$replica"',
                ),
            ),
        ),
    ),
)
