"""Writes the rules of deploy/prometheus as the Prometheus operator has them, for Kubernetes.

    python tools/generate_kubernetes_rules.py            write them
    python tools/generate_kubernetes_rules.py --check    exit 1 when one is not what the rules say

The operator reads no ConfigMap. A unit test makes the same check.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

DEPLOY = Path(__file__).parent.parent / "deploy"
FOLDER = DEPLOY / "kubernetes" / "monitoring"

_HEAD = """\
# Made from deploy/prometheus/rules/{source} by tools/generate_kubernetes_rules.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
  labels: {{release: kube-prometheus-stack}}  # by which that release finds it
spec:
"""

SOURCES = {
    "recording-rules.yaml": ("recording.yml", "tagtrail-recording"),
    "alert-rules.yaml": ("alerts.yml", "tagtrail-alerts"),
}


def files() -> dict[str, str]:
    """Text by file name."""
    made = {}
    for file, (source, name) in SOURCES.items():
        rules = (DEPLOY / "prometheus" / "rules" / source).read_text()
        made[file] = _HEAD.format(source=source, name=name) + textwrap.indent(rules, "  ")
    return made


def stale() -> list[str]:
    """Names of files that are not what the rules say."""
    return [
        name
        for name, text in files().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text
    ]


def main() -> int:
    """The command."""
    names = stale()
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"{name} is not what the rules say. Run: python {' '.join(sys.argv[:1])}")
        return 1 if names else 0
    for name in names:
        (FOLDER / name).write_text(files()[name])
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
