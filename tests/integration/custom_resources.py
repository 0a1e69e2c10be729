"""What deploy/kubernetes uses of the objects of KubeRay and of the Prometheus operator, as schemas.

Ours, from their documentation: only the keys in use, all others are refused. Their own definitions
are no part of this repository; `TAGTRAIL_CRDS` names a folder that has them, as YAML.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]


def _object(required: Schema, **optional: Any) -> Schema:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


def _resource(group: str, kind: str, spec: Schema) -> Schema:
    head = {
        "apiVersion": {"const": group},
        "kind": {"const": kind},
        "metadata": {"type": "object"},
    }
    return _object(head | {"spec": spec})


TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEMPLATE: Schema = {"type": "object"}  # a pod's: held to Kubernetes' own schema by the test

_GROUP = _object(
    {
        "groupName": TEXT,
        "replicas": COUNT,
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": TEXTS,
        "template": TEMPLATE,
    }
)
_RELABELING = _object(
    {"action": {"enum": ["replace", "labeldrop"]}},
    regex=TEXT,
    targetLabel=TEXT,
    replacement=TEXT,
)
_RULE = _object({"expr": TEXT}, alert=TEXT, record=TEXT, labels=TEXTS, annotations=TEXTS) | {
    "oneOf": [{"required": ["alert"]}, {"required": ["record"]}]
}
_RULE["properties"]["for"] = TEXT

CUSTOM: dict[str, Schema] = {
    "RayCluster": _resource(
        "ray.io/v1",
        "RayCluster",
        _object(
            {
                "rayVersion": TEXT,
                "headGroupSpec": _object({"rayStartParams": TEXTS, "template": TEMPLATE}),
                "workerGroupSpecs": _list(_GROUP),
            },
            authOptions=_object({"mode": {"enum": ["token", "disabled"]}}),
        ),
    ),
    "PodMonitor": _resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _object(
            {
                "selector": _object({"matchLabels": TEXTS}),
                "podMetricsEndpoints": _list(
                    _object(
                        {"port": TEXT, "path": TEXT},
                        interval=TEXT,
                        relabelings=_list(_RELABELING),
                    )
                ),
            }
        ),
    ),
    "PrometheusRule": _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object({"groups": _list(_object({"name": TEXT, "rules": _list(_RULE)}, interval=TEXT))}),
    ),
}
"""By kind."""


@cache
def read_definitions(folder: Path) -> dict[str, Schema]:
    """The schemas of v1 by kind, of the definitions in a folder's YAML files; no unknown keys."""
    found = {}
    for path in [*folder.glob("*.yaml"), *folder.glob("*.yml")]:
        for definition in yaml.safe_load_all(path.read_text()):
            for version in definition["spec"]["versions"]:
                if version["name"] == "v1":
                    schema = version["schema"]["openAPIV3Schema"]
                    _close(schema)
                    found[definition["spec"]["names"]["kind"]] = schema
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
