"""All benchmarks in turn: `python -m benchmarks [--seconds S] [--rounds N] [--json]`."""

import subprocess
import sys

NAMES = ("http_noop", "handle_noop", "observability_cost", "pipeline")

# Each in a process of its own: it starts and ends a Ray.
codes = [
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode
    for name in NAMES
]
sys.exit(max(codes))
