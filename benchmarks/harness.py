"""What the benchmarks share: rounds in turn, medians, percentiles, a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import ray
import uvloop

import serve

NICENESS = 15
"""Ray starts its workers at it; a load generator at 0 would starve them on a small machine."""


@dataclass(frozen=True)
class Figure:
    """One thing measured at one concurrency, over one round or as the median of several."""

    name: str
    in_flight: int
    per_s: float
    p50_ms: float
    p99_ms: float


Measure = Callable[[int], Awaitable[Figure]]


def figure(name: str, in_flight: int, latencies_s: list[float], wall_s: float) -> Figure:
    """A round's figure from its latencies."""
    ordered = sorted(latencies_s)
    return Figure(
        name,
        in_flight,
        len(ordered) / wall_s,
        statistics.median(ordered) * 1000,
        ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000,
    )


async def run_rounds(measures: list[Measure], in_flights: list[int], rounds: int) -> list[Figure]:
    """Measure all in turn, so that a noisy moment hits all alike; the medians of `rounds`."""
    seen: dict[tuple[str, int], list[Figure]] = {}
    for number in range(rounds):
        for in_flight in in_flights:
            for measure in measures:
                one = await measure(in_flight)
                seen.setdefault((one.name, one.in_flight), []).append(one)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return [_median(figures) for figures in seen.values()]


@contextmanager
def ray_and_serve(
    http_port: int | None = None, *, detached: bool = False, **options: Any
) -> Iterator[serve.Client]:
    """A Ray and a Serve, ended with the block.

    Args:
        http_port: of its HTTP server. None: it has none.
        detached: `serve.connect()` and the command find it.
        **options: Ray's.
    """
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        **options,
    )
    try:
        http = {"location": "NoServer"} if http_port is None else {"port": http_port}
        yield serve.start(detached, http_options=http)
    finally:
        serve.shutdown()
        ray.shutdown()


def run_benchmark(
    description: str,
    baseline: str,
    collect: Callable[[float, int], Awaitable[list[Figure]]],
    measure_rest: Callable[[], dict[str, Any]] = dict,
) -> None:
    """A benchmark's command: reads the options, starts Ray and Serve, collects, ends them, reports.

    Args:
        description: the benchmark's docstring; its first line is shown by `--help`.
        baseline: name of the figure that the others are compared with.
        collect: measures everything, given (length of one measurement in seconds, rounds).
        measure_rest: measures what is no rate, after Ray has ended; name to value.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each; medians count")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    be_nice()
    with ray_and_serve():
        figures = uvloop.run(collect(options.seconds, options.rounds))
    report(figures, baseline, measure_rest(), options.json)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def be_nice() -> None:
    """Run at the niceness of Ray's workers."""
    os.nice(max(0, NICENESS - os.nice(0)))


def describe_machine() -> str:
    """One line for the head of a report."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}"


def report(figures: list[Figure], baseline: str, rest: dict[str, Any], as_json: bool) -> None:
    """Print the figures, each with its ratio to the baseline at the same concurrency."""
    base = {figure.in_flight: figure.per_s for figure in figures if figure.name == baseline}
    rows = [{**asdict(f), "ratio": f.per_s / base[f.in_flight]} for f in figures]
    if as_json:
        print(json.dumps({"machine": describe_machine(), "figures": rows, **rest}, indent=2))
        return
    print(f"{describe_machine()}; load generator at niceness {NICENESS}, as Ray's workers\n")
    print(f"| what | in flight | per second | p50 ms | p99 ms | of '{baseline}' |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in sorted(rows, key=lambda row: row["in_flight"]):
        print(
            f"| {row['name']} | {row['in_flight']} | {row['per_s']:,.0f} | {row['p50_ms']:.3f} | "
            f"{row['p99_ms']:.3f} | {row['ratio']:.2f} |"
        )
    for name, value in rest.items():
        print(f"\n{name}: {value}")


def _median(figures: list[Figure]) -> Figure:
    def middle(values: list[float]) -> float:
        return statistics.median(values)

    return Figure(
        figures[0].name,
        figures[0].in_flight,
        middle([f.per_s for f in figures]),
        middle([f.p50_ms for f in figures]),
        middle([f.p99_ms for f in figures]),
    )
