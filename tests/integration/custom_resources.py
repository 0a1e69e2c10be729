"""The schemas of the objects of KubeRay and of the Prometheus operator: their own definitions.

They are no part of this repository: `make tools` takes them out of the operators' Go modules, in
the versions of `tools/definitions/go.mod`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import pytest
import yaml

from observability.settings import program_cache

Schema = dict[str, Any]

KINDS = ("RayCluster", "PodMonitor", "PrometheusRule")
"""Those that deploy/kubernetes has."""


@cache
def read_definitions() -> dict[str, Schema]:
    """The schemas of v1 by kind, closed: no unknown keys. Skips the test where there are none."""
    folder = program_cache() / "definitions"
    found = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of 1 MB: the other one needs 20 s
    for path in sorted(folder.glob("*/*/*.yaml")):  # the newest version is the last
        definition = yaml.load(path.read_text(), loader)
        for version in definition["spec"]["versions"]:
            if version["name"] == "v1":
                schema = version["schema"]["openAPIV3Schema"]
                _close(schema)
                found[definition["spec"]["names"]["kind"]] = schema
    if not found and os.environ.get("TAGTRAIL_REQUIRE_TOOLS") != "1":
        pytest.skip(f"{folder} has no definitions of operators. 'make tools' fetches them.")
    assert set(found) == set(KINDS)
    return found


def _close(node: Any) -> None:
    """What the API server does and a JSON schema does not: no unknown key, a number or a text."""
    if isinstance(node, list):
        for item in node:
            _close(item)
    if not isinstance(node, dict):
        return
    is_open = node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in node and "additionalProperties" not in node and not is_open:
        node["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
        node.pop("pattern", None)
    for item in node.values():
        _close(item)
