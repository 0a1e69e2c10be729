"""Records/s from replicas into the log store, and their lag, beside the agent's own ceiling.

For each pair of agent and store that is on this machine. Ceiling: the agent finds segments that
were written before, and does nothing but read and send. End to end: two replicas log as fast as
they can while the agent works beside them; the lag is how old the newest record is that the store
shows, asked for ten times a second.

    python -m benchmarks.pipeline [--seconds 10] [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests

import serve
from benchmarks.harness import be_nice, describe_machine, free_port, ray_and_serve
from observability.deployed import deploy_folder
from observability.stack.machine import find_programs
from observability.stack.runner import Stack, Wanted
from observability.stack.services import default_ports

PAIRS = (("victoria-logs", "vlagent"), ("loki", "alloy"), ("loki", "promtail"))
WRITTEN, SEGMENTS = 400_000, 4
A_CALL, CALLERS = 500, 4
ASK_S = 0.1
ARRIVAL_S = 300
RECORD = (
    '{"time":"%s","kind":"log","level":"INFO","logger":"model","message":"spoken %d",'
    '"file":"pipeline.py","line":1,"endpoint":"b","route":"/b","request_id":"%032x","component":"serve","backend":"b",'
    '"replica":"b#abcdef","node":"10.0.0.1","pid":1}\n'
)


@dataclass(frozen=True)
class Result:
    """What was measured of one pair.

    Attributes:
        agent: its name.
        store: its name.
        ceiling_per_s: records/s of segments that were there before.
        written_per_s: records/s that the replicas wrote.
        arrived_per_s: the same records by the time at which the store had the last one.
        lag_p50_ms: how far the store was behind, in the middle.
        lag_p99_ms: the same, at the worst of 99 of 100 times.
        lost: records that were written and are not in the store.
    """

    agent: str
    store: str
    ceiling_per_s: float
    written_per_s: float
    arrived_per_s: float
    lag_p50_ms: float
    lag_p99_ms: float
    lost: int


@dataclass(frozen=True)
class Store:
    """Asks a store for what it has of job `serve`."""

    name: str
    url: str

    def count(self, backend: str) -> int:
        """Its records of a backend that were logged."""
        if self.name == "loki":
            query = f'sum(count_over_time({{job="serve", backend="{backend}"}} |= "spoken" [1h]))'
            found = self._loki("query", query=query)["result"]
            return int(found[0]["value"][1]) if found else 0
        query = f'{{job="serve",backend="{backend}"}} spoken | stats count() n'
        return int(self._victoria(query)[0]["n"])

    def newest_s(self, backend: str) -> float | None:
        """Time of its newest record of a backend, as a Unix time."""
        if self.name == "loki":
            query = f'{{job="serve", backend="{backend}"}}'
            streams = self._loki("query_range", query=query, limit="1", since="10m")["result"]
            times = [int(value[0]) / 1e9 for stream in streams for value in stream["values"]]
            return max(times, default=None)
        # A short span: the store would look through everything.
        query = f'_time:1m {{job="serve",backend="{backend}"}} | stats max(_time) t'
        times = [row["t"] for row in self._victoria(query) if row.get("t")]
        return parse_time_s(times[0]) if times else None

    def _loki(self, what: str, **params: str) -> Any:
        answer = requests.get(f"{self.url}/loki/api/v1/{what}", params=params, timeout=60)
        answer.raise_for_status()
        return answer.json()["data"]

    def _victoria(self, query: str) -> list[dict[str, str]]:
        answer = requests.post(f"{self.url}/select/logsql/query", {"query": query}, timeout=60)
        answer.raise_for_status()
        return [json.loads(line) for line in answer.text.splitlines()]


def parse_time_s(text: str) -> float:
    """RFC 3339 in UTC with up to nine decimals, as a Unix time."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc)
    return moment.timestamp() + float(f"0.{fraction or 0}")


class Pair:
    """One agent and one store, in a folder of their own."""

    def __init__(self, store: str, agent: str, folder: Path, ray_folder: Path) -> None:
        self.ports = {name: free_port() for name in default_ports()}
        self.store = Store(store, f"http://127.0.0.1:{self.ports[store]}")
        self._agent = agent
        self._ray_folder = ray_folder
        self._stack = Stack(folder, deploy_folder(), lambda step, program: None)

    def start_store(self) -> None:
        self._start(self.store.name)

    def start_agent(self) -> None:
        self._start(self._agent)

    def stop(self) -> None:
        self._stack.down()

    def _start(self, name: str) -> None:
        self._stack.up(Wanted((name,), self.ports, self._ray_folder))


def measure_ceiling(store: str, agent: str) -> float:
    """Records/s."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_segments(folder / "ray" / "session_2" / "logs" / "serve")
        pair = Pair(store, agent, folder / "stack", folder / "ray")
        try:
            pair.start_store()
            begin = time.monotonic()
            pair.start_agent()
            wait_for(lambda: pair.store.count("b") >= WRITTEN)
            return WRITTEN / (time.monotonic() - begin)
        finally:
            pair.stop()


def write_segments(folder: Path) -> None:
    folder.mkdir(parents=True)
    begin = time.time_ns() - WRITTEN * 1000
    share = WRITTEN // SEGMENTS
    for segment in range(SEGMENTS):
        with open(folder / f"replica_b#abcdef.{segment + 1:06d}.log", "w") as file:
            for number in range(segment * share, (segment + 1) * share):
                moment = begin + number * 1000
                whole = datetime.fromtimestamp(moment // 10**9, timezone.utc)
                text = f"{whole:%Y-%m-%dT%H:%M:%S}.{moment % 10**9:09d}Z"
                file.write(RECORD % (text, number, number))


def speak(request: Any) -> int:
    logger = logging.getLogger("model")
    for number in range(A_CALL):
        logger.info("spoken %d", number)
    return A_CALL


def measure_end_to_end(store: str, agent: str, ray_folder: Path, seconds: float) -> dict[str, Any]:
    """What two replicas write in so many seconds, until all of it is in the store."""
    backend = f"speaker_{store}_{agent}".replace("-", "_")
    config = {"num_replicas": 2, "logging_config": {"stderr": False}}
    serve.create_backend(backend, speak, ray_actor_options={"num_cpus": 0}, config=config)
    serve.create_endpoint(backend, backend=backend)
    with tempfile.TemporaryDirectory() as name:
        pair = Pair(store, agent, Path(name), ray_folder)
        try:
            pair.start_store()
            pair.start_agent()
            begin = time.monotonic()
            counts = [0] * CALLERS
            callers = [
                threading.Thread(target=keep_calling, args=(backend, counts, n, begin + seconds))
                for n in range(CALLERS)
            ]
            for caller in callers:
                caller.start()
            lags = []
            while any(caller.is_alive() for caller in callers):
                newest_s = pair.store.newest_s(backend)
                if newest_s is not None:
                    lags.append((time.time() - newest_s) * 1000)
                time.sleep(ASK_S)
            written, wall_s = sum(counts), time.monotonic() - begin
            wait_for(lambda: pair.store.count(backend) >= written, fails=False)
            arrived_s = time.monotonic() - begin
            if not lags:
                raise TimeoutError(
                    f"{store} showed no record within {seconds:g} s. Write longer: --seconds 10."
                )
            lags.sort()
            return {
                "written_per_s": written / wall_s,
                "arrived_per_s": written / arrived_s,
                "lag_p50_ms": statistics.median(lags),
                "lag_p99_ms": lags[int(len(lags) * 0.99)],
                "lost": max(0, written - pair.store.count(backend)),
            }
        finally:
            pair.stop()
            serve.delete_endpoint(backend)
            serve.delete_backend(backend, force=True)


def keep_calling(endpoint: str, counts: list[int], number: int, until: float) -> None:
    handle = serve.get_handle(endpoint)
    while time.monotonic() < until:
        counts[number] += handle.call().result(60)


def wait_for(is_true: Callable[[], bool], *, fails: bool = True) -> None:
    deadline = time.monotonic() + ARRIVAL_S
    while not is_true():
        if time.monotonic() > deadline:
            if fails:
                raise TimeoutError(f"The records did not arrive within {ARRIVAL_S} s.")
            return
        time.sleep(ASK_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="how long the replicas write")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each; medians count")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    there = find_programs()
    pairs = [pair for pair in PAIRS if set(pair) <= set(there)]
    for store, agent in PAIRS:
        if (store, agent) not in pairs:
            missing = [name for name in (store, agent) if name not in there]
            print(
                f"{agent} into {store} is left out: no {' and no '.join(missing)}", file=sys.stderr
            )
    if not pairs:
        sys.exit("There is no pair of agent and store on this machine. 'make tools' builds one.")
    be_nice()
    results = [measure(store, agent, options) for store, agent in pairs]
    if options.json:
        print(json.dumps({"machine": describe_machine(), "pairs": [asdict(r) for r in results]}))
        return
    print(f"{describe_machine()}; medians of {options.rounds}\n")
    print("| agent, store | ceiling/s | written/s | arrived/s | lag p50 ms | lag p99 ms | lost |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for r in results:
        print(
            f"| {r.agent}, {r.store} | {r.ceiling_per_s:,.0f} | {r.written_per_s:,.0f} | "
            f"{r.arrived_per_s:,.0f} | {r.lag_p50_ms:,.0f} | {r.lag_p99_ms:,.0f} | {r.lost} |"
        )


def measure(store: str, agent: str, options: argparse.Namespace) -> Result:
    """All of one pair, in rounds."""
    ceilings, rounds = [], []
    for number in range(options.rounds):
        ceilings.append(measure_ceiling(store, agent))
        with tempfile.TemporaryDirectory(prefix="tt", dir="/tmp") as ray_folder:
            with ray_and_serve(_temp_dir=ray_folder):
                rounds.append(measure_end_to_end(store, agent, Path(ray_folder), options.seconds))
        print(f"{agent}: round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    middle = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    middle["lost"] = max(r["lost"] for r in rounds)
    return Result(agent, store, statistics.median(ceilings), **middle)


if __name__ == "__main__":
    main()
