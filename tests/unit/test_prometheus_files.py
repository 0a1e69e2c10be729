"""deploy/prometheus held to the catalogue: what rules ask for is what is exported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.catalog import METRICS, Metric, MetricKind

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
SELECTOR = re.compile(r"\bray_(\w+)(?:\{([^}]*)\})?")
RECORDED = re.compile(r"\b(?:endpoint|backend|replica):\w+:\w+")
SCRAPED = {"job", "instance", "le"}


def rules() -> Iterator[dict[str, Any]]:
    for path in sorted((FOLDER / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


RULES = list(rules())
ALERTS = [rule for rule in RULES if "alert" in rule]


def exported(metric: Metric) -> list[str]:
    """The names of its series, without `ray_`."""
    if metric.kind is MetricKind.COUNTER:
        return [f"{metric.name}_total"]
    if metric.kind is MetricKind.HISTOGRAM:
        return [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
    return [metric.name]


EXPORTED = {name: metric for metric in METRICS for name in exported(metric)}


def name_of(rule: dict[str, Any]) -> str:
    return str(rule.get("record") or rule.get("alert"))


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_asks_for_what_is_exported_with_the_tags_it_has(rule: dict[str, Any]) -> None:
    for name, selected in SELECTOR.findall(rule["expr"]):
        metric = EXPORTED[name]
        matchers = dict(re.findall(r'(\w+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"', selected))
        assert set(matchers) <= {*metric.tags, *SCRAPED}
        assert matchers["job"] == "ray"  # the ingress's page has the same numbers


def test_what_a_rule_takes_from_another_one_is_recorded() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for rule in RULES for name in RECORDED.findall(rule["expr"])}
    assert asked
    assert asked <= recorded


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_says_how_urgent_it_is_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description"}


def test_what_is_read_from_a_file_is_where_ray_and_the_controller_write_it() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    files = {
        job["job_name"]: job["file_sd_configs"][0]["files"]
        for job in jobs
        if "file_sd_configs" in job
    }
    assert files == {
        "ray": ["/tmp/ray/prom_metrics_service_discovery.json"],
        "tagtrail": ["/tmp/ray/session_latest/tagtrail_metrics_*.json"],
    }
