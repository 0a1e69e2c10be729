"""Whether memory stays flat: deploys, drivers that come and go, and a steady load, for 20 minutes.

    python -m benchmarks.soak [--minutes M] [--plot FILE.svg] [--json]

In 20 minutes 200 versions of a backend are created, get the traffic and are deleted; 5,000 drivers
are simulated, each with a registry of its own that listens, calls once and goes; requests come at
a steady rate, over HTTP and by handle. A shorter run does less of it, in proportion. Resident
memory of the controller, the ingress, HAProxy and the replicas of a backend that stays is sampled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import uvloop

import serve
from benchmarks.harness import be_nice, describe_machine, free_port, ray_and_serve
from benchmarks.memory import resident_mb
from benchmarks.plot import line_plot
from serve.call import Call
from serve.handle.registry import Registry
from serve.ids import make_request_id

MINUTES = 20.0
DRIVERS_A_MINUTE = 250
DEPLOYS_A_MINUTE = 10
REQUESTS_PER_S = 50
SAMPLE_S = 2.0

QUICK = {"experimental_graceful_shutdown_wait_loop_s": 0.1}


@dataclass
class Done:
    """What was done, and what of it failed."""

    drivers: int = 0
    deploys: int = 0
    requests: int = 0
    failures: int = 0


@dataclass(frozen=True)
class Memory:
    """One role's memory over the run: medians of quarters, MB."""

    role: str
    second_quarter_mb: float
    last_quarter_mb: float
    most_mb: float

    @property
    def growth_mb(self) -> float:
        """From the second quarter, when all is warm, to the last."""
        return self.last_quarter_mb - self.second_quarter_mb


def soaked(request: object) -> str:
    """The backend that stays."""
    return "up"


class Soak:
    """One run.

    Args:
        minutes: how long.
        port: where the ingress listens.
        controller_name: of the instance.
    """

    def __init__(self, minutes: float, port: int, controller_name: str) -> None:
        self._ends = time.monotonic() + minutes * 60
        self._begun = time.monotonic()
        self._url = f"http://127.0.0.1:{port}/soaked"
        self._controller_name = controller_name
        self.done = Done()
        self.samples: list[tuple[float, dict[str, float]]] = []

    async def run(self) -> None:
        """All of it at once, until time is up."""
        async with httpx.AsyncClient(timeout=30) as http:
            handle = serve.get_handle("soaked", sync=False)

            async def ask() -> None:
                (await http.get(self._url)).raise_for_status()
                await handle.call()
                self.done.requests += 2

            await asyncio.gather(
                self._repeat(2 / REQUESTS_PER_S, ask),
                self._repeat(60 / DRIVERS_A_MINUTE, self._come_and_go),
                self._repeat(60 / DEPLOYS_A_MINUTE, self._deploy),
                self._repeat(SAMPLE_S, self._sample),
            )

    async def _repeat(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do something at a steady pace; later when it takes longer."""
        due = time.monotonic()
        while time.monotonic() < self._ends:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the soak goes on and tells of it at its end
                self.done.failures += 1
                print(f"{type(error).__name__}: {error}", file=sys.stderr)
            due = max(due + period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _come_and_go(self) -> None:
        """What a short driver does with one handle; its process is this one."""
        registry = await asyncio.to_thread(Registry, self._controller_name)
        try:
            await asyncio.wrap_future(registry.subscribe("soaked"))
            call = Call(None, {}, "__call__", "soaked", make_request_id())
            await registry.router("soaked").send(call)
        finally:
            registry.close()
        self.done.drivers += 1

    async def _deploy(self) -> None:
        await asyncio.to_thread(_deploy_version, self.done.deploys)
        self.done.deploys += 1

    async def _sample(self) -> None:
        mb = await asyncio.to_thread(resident_mb, soaked.__name__)
        self.samples.append(((time.monotonic() - self._begun) / 60, mb))


def _deploy_version(number: int) -> None:
    """A new version comes up, gets the traffic, and the one before goes."""
    tag = f"version-{number}"
    serve.create_backend(
        tag, lambda request: number, ray_actor_options={"num_cpus": 0}, config=QUICK
    )
    if number == 0:
        serve.create_endpoint("deployed", backend=tag, route="/deployed")
    else:
        serve.set_traffic("deployed", {tag: 1.0})
        serve.delete_backend(f"version-{number - 1}")


def summarize(samples: list[tuple[float, dict[str, float]]]) -> list[Memory]:
    """Each role's memory; a role that was seen in too few samples is left out."""
    found = []
    for role in sorted({role for _, mb in samples for role in mb}):
        values = [mb[role] for _, mb in samples if role in mb]
        quarter = len(values) // 4
        if quarter:
            second, last = values[quarter : 2 * quarter], values[-quarter:]
            medians = statistics.median(second), statistics.median(last)
            found.append(Memory(role, *medians, max(values)))
    return found


def draw(minutes: float, samples: list[tuple[float, dict[str, float]]]) -> str:
    """The plot."""
    roles = sorted({role for _, mb in samples for role in mb})
    lines = {role: [(at, mb[role]) for at, mb in samples if role in mb] for role in roles}
    title = f"Resident memory over a soak of {minutes:g} minutes"
    return line_plot(title, "minutes", "MB", lines)


def report(minutes: float, done: Done, memory: list[Memory]) -> None:
    """The table."""
    print(f"{describe_machine()}; {minutes:g} minutes")
    print(
        f"{done.deploys} deploys, {done.drivers:,} drivers, {done.requests:,} requests, "
        f"{done.failures} failures\n"
    )
    print("| process | second quarter MB | last quarter MB | growth MB | most MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for one in memory:
        print(
            f"| {one.role} | {one.second_quarter_mb:.1f} | {one.last_quarter_mb:.1f} | "
            f"{one.growth_mb:+.1f} | {one.most_mb:.1f} |"
        )


def main() -> int:
    """The command. Exit code 1: something failed meanwhile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long")
    parser.add_argument("--plot", type=Path, help="write an SVG there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    be_nice()
    port = free_port()
    with ray_and_serve(port) as client:
        serve.create_backend("soaked", soaked, config={"num_replicas": 2, **QUICK})
        serve.create_endpoint("soaked", backend="soaked", route="/soaked")
        soak = Soak(options.minutes, port, client.controller_name)
        uvloop.run(soak.run())
    memory = summarize(soak.samples)
    if options.plot is not None:
        options.plot.write_text(draw(options.minutes, soak.samples))
    if options.json:
        rows = [{**asdict(one), "growth_mb": one.growth_mb} for one in memory]
        print(json.dumps({"minutes": options.minutes, **asdict(soak.done), "memory": rows}))
    else:
        report(options.minutes, soak.done, memory)
    return 1 if soak.done.failures else 0


if __name__ == "__main__":
    sys.exit(main())
