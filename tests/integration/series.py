"""Reads metrics as Prometheus does."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

import serve

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
    return parse(httpx.get(f"http://{page_address()}/metrics", timeout=30).text)
