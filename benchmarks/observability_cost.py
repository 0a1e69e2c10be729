"""What the trail costs: HTTP requests/s with everything on, beside everything off.

On: access records, tagged loggers, metrics and their export, HAProxy's log. Off: none of it; the
same replica and HAProxy otherwise. Also: one `logger.info` in a backend beside a plain file
handler, and the time in which `tagtrail trace` finds an id in 1 GB of segments.

    python -m benchmarks.observability_cost [--seconds 3] [--rounds 5] [--json]
"""

from __future__ import annotations

import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from benchmarks.harness import Figure, free_port, run_benchmark, run_rounds
from benchmarks.load import load
from observability.instrument.capture import install
from observability.instrument.context import RequestContext, request_context
from observability.instrument.export import start_export
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter
from serve.config import BackendConfig
from serve.definition import Definition, inspect_target
from serve.ingress.keeper import IngressKeeper
from serve.ingress.locate import find_haproxy
from serve.ingress.records import IngressSettings
from serve.ingress_token import make_ingress_token
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.replica.records import ReplicaRecords
from serve.replica.replica import Replica
from serve.replica.spec import ReplicaSpec
from serve.session import segment_folder
from serve.traffic import TrafficPolicy

OFF, ON, LOGGING = "everything off", "everything on", "everything on, one logger.info each"
LINES = 20_000
SEGMENTS, SEGMENT_BYTES = 16, 64 * 1024 * 1024
RECORD = (
    '{"time":"2026-01-01T00:00:00.%09dZ","kind":"access","level":"INFO","way":"http",'
    '"method":"GET","path":"/f","status":200,"endpoint":"f","route":"/f","request_id":"%s",'
    '"queue_ms":0.012,"processing_ms":1.376,"bytes_in":0,"bytes_out":35,"component":"serve",'
    '"backend":"b","replica":"b#abcdef","node":"10.0.0.1","pid":1}\n'
)


async def noop(request):
    return b""


async def logging_noop(request):
    logging.getLogger("model").info("count: %d", 5)
    return b""


class NoTrail:
    """Stands where a replica's trail is, and does nothing."""

    has_client_address = False

    def flush(self) -> None:
        pass

    def end(self, *facts: object, **more: object) -> None:
        pass

    def hold(self, end) -> None:
        """A whole answer leaves."""
        end()


class NoRecords:
    """Stands where a replica's records are, and does nothing."""

    def __init__(self) -> None:
        self.trail = NoTrail()
        self.metrics = SimpleNamespace()
        self.folder = segment_folder()
        self.static = {"pid": os.getpid()}

    def attach(self) -> None:
        pass

    def close(self) -> None:
        pass


SECRET = b"x" * 32


@ray.remote(num_cpus=1)
class ReplicaHost:
    """One replica, with its trail or without, in an actor as always."""

    async def start(self, name: str, target, is_on: bool) -> ReplicaAddress:
        tag = f"{name}#bench"
        traits = inspect_target(target, ())
        config = BackendConfig(max_concurrent_queries=100).resolve(traits)
        packed = Definition(target, ()).pack()
        spec = ReplicaSpec("bench", tag, name, packed, traits, config, 1, [], SECRET)
        records = NoRecords()
        if is_on:
            records = ReplicaRecords(segment_folder(), name, tag, "127.0.0.1", LoggingConfig())
            start_export()
        registry = f"{segment_folder()}-of-benchmark"
        self._replica = Replica(spec, "127.0.0.1", "", tag, lambda *_: None, records, registry)
        return await self._replica.start()


def make_table(names: dict[str, ReplicaAddress]) -> IngressTable:
    """One route and one backend each."""
    routes, backends = [], []
    for index, (name, address) in enumerate(names.items()):
        policy = TrafficPolicy.of({name: 1.0})
        routes.append(IngressRoute(name, f"/{index}", ("GET",), False, policy))
        backends.append(BackendTargets(name, (address,), max_concurrent_queries=100))
    return IngressTable(tuple(routes), tuple(backends))


def median_us(function: Callable[[], None]) -> float:
    """Processor time of one call, microseconds."""
    rounds = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(LINES):
            function()
        rounds.append((time.process_time() - started) / LINES * 1e6)
    return statistics.median(rounds)


def time_of_a_line() -> dict[str, float]:
    """Microseconds of one `logger.info` during a request: a plain file handler's, and ours."""
    with tempfile.TemporaryDirectory() as folder:
        plain = logging.getLogger("plain")
        plain.propagate = False
        plain.setLevel(logging.INFO)
        handler = logging.FileHandler(f"{folder}/plain.log")
        handler.setFormatter(
            logging.Formatter("%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s")
        )
        plain.addHandler(handler)
        times = {"plain file handler": median_us(lambda: plain.info("count: %d", 5))}
        handler.close()
        request_context.set(RequestContext("0" * 32, "endpoint", "/route"))
        mine = logging.getLogger("model")
        for name, stderr in (("backend, with its copy on stderr", True), ("backend", False)):
            writer = SegmentWriter(folder, "replica_b#bench", LoggingConfig().retention)
            static = {"component": "serve", "backend": "b", "replica": "b#bench", "pid": 1}
            capture = install(writer, static, LoggingConfig(stderr=stderr), streams=False)
            try:
                times[name] = median_us(lambda: mine.info("count: %d", 5))
            finally:
                capture.close()
        return times


def time_of_a_search() -> float:
    """Seconds in which the command finds an id in 1 GB, its start included; median of three."""
    wanted = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SEGMENTS):
            path = Path(folder, f"replica_b#abcde{chr(97 + number)}.000001.log")
            with path.open("w") as file:
                size = 0
                while size < SEGMENT_BYTES:
                    size += file.write(RECORD % (size, secrets.token_hex(16)))
                if number == SEGMENTS // 2:
                    file.write(RECORD % (size, wanted))
        command = [sys.executable, "-m", "serve", "trace", wanted, "--folder", folder, "--json"]
        times = []
        for _ in range(3):
            started = time.perf_counter()
            found = subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - started)
            assert wanted.encode() in found.stdout
        return statistics.median(times)


async def collect(seconds: float, rounds: int) -> list[Figure]:
    """All rounds of requests."""
    kinds = {OFF: (noop, False), ON: (noop, True), LOGGING: (logging_noop, True)}
    hosts = {name: ReplicaHost.remote() for name in kinds}
    addresses = {name: await hosts[name].start.remote(name, *kinds[name]) for name in kinds}
    with tempfile.TemporaryDirectory(prefix="tt") as folder:
        keepers, ports = [], {}
        for is_on in (False, True):
            names = {name: addresses[name] for name in kinds if kinds[name][1] is is_on}
            settings = IngressSettings(
                *("127.0.0.1", free_port(), f"{folder}/{int(is_on)}"),
                is_logged=is_on,
                token=make_ingress_token(SECRET),
            )
            keeper = IngressKeeper(settings, find_haproxy())
            await keeper.start(make_table(names))
            keepers.append(keeper)
            ports |= {name: (settings.port, f"/{i}") for i, name in enumerate(names)}

        def of(name: str) -> Any:
            port, path = ports[name]
            return lambda in_flight: load(name, port, path, in_flight, seconds)

        try:
            return await run_rounds([of(name) for name in kinds], [1, 32], rounds)
        finally:
            for keeper in keepers:
                await keeper.stop(1)


def measure_rest() -> dict[str, Any]:
    """What is no request: printed below the table."""
    times = time_of_a_line()
    return {
        "one logger.info, microseconds of processor time": {
            what: round(time, 1) for what, time in times.items()
        },
        "tagtrail trace in 1 GB of segments, seconds": round(time_of_a_search(), 2),
    }


if __name__ == "__main__":
    run_benchmark(__doc__, OFF, collect, measure_rest)
