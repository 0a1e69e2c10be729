"""Two backends of an endpoint, side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable

from observability import catalog
from observability.grafana.records import (
    BACKEND,
    ENDPOINT,
    Board,
    Panel,
    Query,
    Row,
    Variable,
    lines,
    mean,
    quantile,
    rate,
)

SHARED = 'endpoint=~"$endpoint", way!="shadow"'
SIDES = ("baseline", "canary")


def _versus(ask: Callable[[str], str]) -> tuple[Query, ...]:
    """The same of both backends. `ask` makes the query for a selector of the one."""
    return tuple(Query(ask(f'backend="${side}"'), f"${side} ({side})") for side in SIDES)


def _failing(backend: str) -> str:
    failed = rate(catalog.ENDPOINT_REQUESTS, f'{SHARED}, {backend}, status_class="5xx"')
    return f"({failed} or vector(0)) / {rate(catalog.ENDPOINT_REQUESTS, f'{SHARED}, {backend}')}"


def _mean_of(side: str) -> str:
    return mean(catalog.PROCESSING_LATENCY, f'backend="${side}"')


BOARD = Board(
    "canary",
    "Tagtrail / Canary",
    "Two backends of an endpoint side by side: may the new one have more traffic?",
    (
        Variable("endpoint", "Endpoint", ENDPOINT.values, False),
        Variable("baseline", "Baseline", BACKEND.values, False),
        Variable("canary", "Canary", BACKEND.values, False),
    ),
    (
        Row(
            "Side by side",
            (
                Panel(
                    "Requests/s",
                    "How the endpoint's traffic is shared out: serve.set_traffic.",
                    _versus(lambda b: rate(catalog.ENDPOINT_REQUESTS, f"{SHARED}, {b}")),
                    "reqps",
                ),
                Panel(
                    "Failing",
                    "Share of 5xx.",
                    _versus(_failing),
                    "percentunit",
                ),
                Panel(
                    "p99",
                    "Waiting and working, as those who asked saw it.",
                    _versus(
                        lambda b: quantile(
                            0.99, catalog.ENDPOINT_LATENCY, f'endpoint=~"$endpoint", {b}'
                        )
                    ),
                    "ms",
                ),
                Panel(
                    "p50 of the handler",
                    "Working only.",
                    _versus(lambda b: f"backend:serve_processing_ms:p50{{{b}}}"),
                    "ms",
                ),
                Panel(
                    "How much slower is the canary?",
                    "Its mean time over that of the baseline: 1 is the same, 2 is twice as slow.",
                    (
                        Query(
                            f"({_mean_of('canary')}) / ({_mean_of('baseline')})",
                            "$canary / $baseline",
                        ),
                    ),
                ),
                Panel(
                    "Calls from Python/s",
                    "handle.remote() and handle.call(), by endpoint.",
                    (
                        Query(
                            rate(catalog.HANDLE_REQUESTS, 'endpoint=~"$endpoint"', by="endpoint")
                            + " or vector(0)",
                            "{{endpoint}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
        Row(
            "What they say",
            tuple(
                lines(
                    f"Errors of the {name}",
                    "The same error on both sides is not the canary's.",
                    f'{{job="serve", backend="${name}", level=~"ERROR|CRITICAL"}}',
                    width=12,
                )
                for name in SIDES
            ),
        ),
    ),
)
