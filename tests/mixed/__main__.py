"""The mixed run, longer: each request is recorded exactly once, as its client saw it.

    python -m tests.mixed [--requests N] [--seed S]

Prints the seed first: the same seed sends the same requests in the same order. Exit code 1: a
difference, shown in a table.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections import Counter

from benchmarks.harness import ray_and_serve
from tests.conftest import free_port
from tests.integration.processes import ROOT
from tests.mixed.backends import deploy
from tests.mixed.run import Run, drive, settle
from tests.mixed.seen import table

REQUESTS = 100_000


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the mix")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.requests:,} requests", flush=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    port = free_port()
    run = Run("soak", options.seed)
    with ray_and_serve(port, detached=True):
        deploy(run.name)
        asyncio.run(drive(run, port, options.requests))
        differences = settle(run)
    for (kind, saw), count in sorted(Counter((one.kind, one.saw) for one in run.seen).items()):
        print(f"{count:>8} {kind}: {saw}")
    print(f"{len(run.seen):,} requests in {run.wall_s:.0f} s, {run.kills} replicas killed")
    if differences:
        print(f"{len(differences)} differences (seed {options.seed}):\n{table(differences)}")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
