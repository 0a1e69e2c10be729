"""deploy/prometheus held to the catalogue: what rules ask for is what is exported."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.promql import ROOT, check_selectors, read_rules, recorded_in

RULES = read_rules()
ALERTS = [rule for rule in RULES if "alert" in rule]


def name_of(rule: dict[str, Any]) -> str:
    return str(rule.get("record") or rule.get("alert"))


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_a_rule_asks_for_what_is_exported_with_the_tags_it_has(rule: dict[str, Any]) -> None:
    check_selectors(rule["expr"])


def test_what_a_rule_takes_from_another_one_is_recorded() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = {name for rule in RULES for name in recorded_in(rule["expr"])}
    assert asked
    assert asked <= recorded


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_an_alert_says_how_urgent_it_is_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description"}


def test_what_is_read_from_a_file_is_where_ray_and_the_controller_write_it() -> None:
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    files = {
        job["job_name"]: job["file_sd_configs"][0]["files"]
        for job in yaml.safe_load(text)["scrape_configs"]
        if "file_sd_configs" in job
    }
    assert files == {
        "ray": ["/tmp/ray/prom_metrics_service_discovery.json"],
        "tagtrail": ["/tmp/ray/session_latest/tagtrail_metrics_*.json"],
    }
