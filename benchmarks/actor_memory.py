"""What Ray keeps of an actor that was made, called and killed, in the process that did so.

    python -m benchmarks.actor_memory [--rounds N]

Plain Ray, nothing of Tagtrail: how much of the controller's growth by deploys is Ray's. One process
makes unnamed actors, one named and detached ones as the controller does, one rests after its first
round. Their resident memory is read after each round of 20 actors, once malloc has given back what
is free.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
from pathlib import Path
from typing import Any

import ray

from benchmarks.harness import describe_machine

ACTORS = 20
NAMED = {"lifetime": "detached", "max_restarts": -1, "max_task_retries": -1}


class Answers:
    """The actor that comes and goes."""

    async def ready(self) -> bool:
        return True


class Maker:
    """Makes actors and kills them."""

    def __init__(self) -> None:
        self._made = 0
        self._actor = ray.remote(Answers)

    async def make(self, is_named: bool) -> float:
        """One round; resident memory after it, MB."""
        for _ in range(ACTORS):
            options: dict[str, Any] = {"num_cpus": 0}
            if is_named:
                options |= {"name": f"made-{self._made}", "namespace": "memory", **NAMED}
            actor = self._actor.options(**options).remote()
            await actor.ready.remote()
            ray.kill(actor, no_restart=True)
            self._made += 1
        return resident_mb()

    async def rest(self) -> float:
        """Nothing; resident memory, MB."""
        return resident_mb()


def resident_mb() -> float:
    """This process's, without what malloc holds for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1_000_000


def measure(rounds: int) -> dict[str, list[float]]:
    """MB after each round, by what was done."""
    maker = ray.remote(Maker).options(num_cpus=0)
    makers = {name: maker.remote() for name in ("rests", "unnamed", "named")}
    found: dict[str, list[float]] = {name: [] for name in makers}
    for number in range(rounds):
        for name in ("unnamed", "named"):
            found[name].append(ray.get(makers[name].make.remote(name == "named")))
        rests = makers["rests"]
        found["rests"].append(ray.get(rests.rest.remote() if number else rests.make.remote(False)))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 20 actors")
    options = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    found = measure(options.rounds)
    print(f"{describe_machine()}\n")
    print("| actors | MB after the first round | after the last | KB an actor |")
    print("| --- | ---: | ---: | ---: |")
    for name, mb in found.items():
        grown_kb = (mb[-1] - mb[0]) * 1000 / (ACTORS * (len(mb) - 1))
        print(f"| {name} | {mb[0]:.1f} | {mb[-1]:.1f} | {grown_kb:.0f} |")


if __name__ == "__main__":
    main()
