"""What a query in PromQL asks for, held to the catalogue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from observability.catalog import METRICS

ROOT = Path(__file__).parent.parent
EXPORTED = {name: metric for metric in METRICS for name in metric.series}
SCRAPED = {"job", "instance", "le"}

_SELECTOR = re.compile(r"\b(ray_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"')
_RECORDED = re.compile(r"\b(?:endpoint|backend|replica):\w+:\w+")


def check_selectors(expr: str) -> set[str]:
    """Names of the series it asks for; AssertionError for what nobody exports, or a foreign tag."""
    names = set()
    for name, selected in _SELECTOR.findall(expr):
        metric = EXPORTED[name]
        matchers = dict(_MATCHER.findall(selected))
        assert set(matchers) <= {*metric.tags, *SCRAPED}, expr
        assert matchers["job"] == "ray", expr  # the ingress's page has the same numbers
        names.add(name)
    return names


def recorded_in(expr: str) -> set[str]:
    """Names of the recorded series it asks for."""
    return set(_RECORDED.findall(expr))


def read_rules() -> list[dict[str, Any]]:
    """All rules of deploy/prometheus."""
    return [
        rule
        for path in sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
