"""Reads metrics as Prometheus does."""

from __future__ import annotations

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

import serve
from serve.ingress.metrics_page import ASK_S
from tests.integration.processes import wait_until

Series = tuple[str, dict[str, str], float]
"""Name, tags, value."""


def parse(text: str) -> list[Series]:
    return [
        (sample.name, {k: v for k, v in sample.labels.items() if v}, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def total(series: list[Series], name: str, **labels: str) -> float:
    return sum(
        value
        for found, tags, value in series
        if found == name and all(tags.get(key) == wanted for key, wanted in labels.items())
    )


def tags_of(series: list[Series], name: str, **labels: str) -> list[dict[str, str]]:
    return [
        tags
        for found, tags, _ in series
        if found == name and all(tags.get(key) == wanted for key, wanted in labels.items())
    ]


def in_hand(name: str) -> tuple[float, float]:
    """Requests to a backend that its replicas work on, and those that wait in the ingress."""
    series = page()
    return (
        total(series, "ray_serve_replica_processing_queries", backend=name),
        total(series, "ray_serve_backend_queued_queries", backend=name, endpoint=name),
    )


def page_address() -> str:
    (ingress,) = serve.connect().status().observed.ingresses.values()
    assert ingress.admin_address
    return ingress.admin_address


def page() -> list[Series]:
    """The page with the numbers of this moment.

    An actor that does not answer within `ASK_S` keeps its last numbers: on a busy machine that may
    be any. A page that came sooner waited for nobody in vain.
    """

    def whole() -> list[Series] | None:
        begun = time.monotonic()
        series = page_at_once()
        return series if time.monotonic() - begun < ASK_S else None

    return wait_until(whole) or []


def page_at_once() -> list[Series]:
    """The page as it comes, whoever has not answered in time."""
    return parse(httpx.get(f"http://{page_address()}/metrics", timeout=30).text)
