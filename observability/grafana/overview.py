"""All endpoints at once. Pure."""

from __future__ import annotations

from observability import catalog
from observability.grafana.records import (
    ENDPOINT,
    Board,
    Panel,
    Query,
    Row,
    View,
    lines,
    now,
    quantiles,
    rate,
)

CHOSEN = 'endpoint=~"$endpoint"'

BOARD = Board(
    "overview",
    "Tagtrail / Overview",
    "All endpoints: how many requests, how many fail, how long they take, what waits.",
    (ENDPOINT,),
    (
        Row(
            "Now",
            (
                Panel(
                    "Requests/s",
                    "Over the last 5 minutes, shadows left out.",
                    (Query('sum(endpoint:serve_requests:rate5m{endpoint=~"$endpoint"})'),),
                    "reqps",
                    View.NUMBER,
                    5,
                ),
                Panel(
                    "Failing",
                    "Share of requests that were answered with a 5xx. The objective is 0.1%.",
                    (
                        Query(
                            'sum(endpoint:serve_errors:rate5m{endpoint=~"$endpoint"})'
                            ' / sum(endpoint:serve_requests:rate5m{endpoint=~"$endpoint"})'
                        ),
                    ),
                    "percentunit",
                    View.NUMBER,
                    5,
                ),
                Panel(
                    "Replicas that run",
                    "Of all backends.",
                    (Query("sum(backend:serve_replicas:running)"),),
                    view=View.NUMBER,
                    width=5,
                ),
                Panel(
                    "Waiting",
                    "Requests in queues: of ingresses, handles and replicas.",
                    (Query("sum(backend:serve_queued:sum)"),),
                    view=View.NUMBER,
                    width=5,
                ),
                Panel(
                    "Alerts",
                    "That fire now: Prometheus's page /alerts says which, and what to do.",
                    (
                        Query(
                            'count(ALERTS{alertname=~"Serve.*", alertstate="firing"}) or vector(0)'
                        ),
                    ),
                    view=View.NUMBER,
                    width=4,
                ),
            ),
        ),
        Row(
            "Endpoints",
            (
                Panel(
                    "Requests/s",
                    "By endpoint, shadows left out.",
                    (
                        Query(
                            'endpoint:serve_requests:rate5m{endpoint=~"$endpoint"}', "{{endpoint}}"
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Failing",
                    "Share of each endpoint's requests that were answered with a 5xx.",
                    (
                        Query(
                            'endpoint:serve_errors:ratio5m{endpoint=~"$endpoint"}', "{{endpoint}}"
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "How long they take",
                    "Waiting and working. One in a hundred takes longer than p99.",
                    quantiles("endpoint", "serve_latency_ms", CHOSEN, "{{endpoint}} "),
                    "ms",
                ),
                Panel(
                    "Answers by status",
                    "499: the client went away.",
                    (
                        Query(
                            rate(
                                catalog.ENDPOINT_REQUESTS,
                                CHOSEN,
                                by="status_class",
                            ),
                            "{{status_class}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "By the way they come",
                    "http, websocket: through the ingress. call, remote: Python. shadow: a copy.",
                    (
                        Query(
                            rate(catalog.ENDPOINT_REQUESTS, CHOSEN, by="way"),
                            "{{way}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Handed to replicas",
                    "By endpoint: requests that a router gave to a replica.",
                    (
                        Query(
                            rate(catalog.ROUTER_REQUESTS, CHOSEN, by="endpoint"),
                            "{{endpoint}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
        Row(
            "Behind them",
            (
                Panel(
                    "HTTP requests/s by route",
                    "The route is the pattern; 'unmatched' is what no route takes.",
                    (
                        Query(
                            rate(catalog.HTTP_REQUESTS, by="route"),
                            "{{route}}",
                        ),
                    ),
                    "reqps",
                ),
                Panel(
                    "Waiting by backend",
                    "If it only grows, requests come faster than they are answered.",
                    (Query("backend:serve_queued:sum", "{{backend}}"),),
                ),
                Panel(
                    "Replicas by state",
                    "All should be RUNNING.",
                    (
                        Query(
                            f"sum by (backend, state) ({now(catalog.REPLICA_STATE)})",
                            "{{backend}} {{state}}",
                        ),
                    ),
                ),
                Panel(
                    "The controller's loop",
                    "How long its last step took.",
                    (Query(f"max({now(catalog.CONTROLLER_LOOP)})", "step"),),
                    "ms",
                ),
                Panel(
                    "Changes that fail/s",
                    "Attempts to apply what the controller says. 'tagtrail status' has the reason.",
                    (
                        Query(
                            rate(catalog.UPDATE_FAILURES, by="listener") + " or vector(0)",
                            "{{listener}}",
                        ),
                    ),
                    "cps",
                    width=16,
                ),
                lines(
                    "Errors of the last hour",
                    "What was said at ERROR and above, by any backend.",
                    '{job="serve", level=~"ERROR|CRITICAL"}',
                    width=24,
                ),
            ),
        ),
    ),
)
