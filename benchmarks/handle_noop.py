"""Calls per second through a handle to a no-op backend, beside a bare Ray actor call.

Each from blocking code with a sliding window of calls, and the direct one and the bare one from
asyncio too. The bare calls carry one argument, None, as the handle's do.

    python -m benchmarks.handle_noop [--seconds 3] [--rounds 5] [--json]
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import ray

import serve
from benchmarks.harness import Figure, figure, run_benchmark, run_rounds

BARE = "bare Ray actor call"


@ray.remote(num_cpus=1)
class Bare:
    def noop(self, data=None):
        return b""


@ray.remote(num_cpus=1)
class AsyncBare:
    async def noop(self, data=None):
        return b""


async def noop(request):
    return b""


def blocking_noop(request):
    return b""


def measure_refs(name: str, call: Callable[[], ray.ObjectRef], in_flight: int, seconds: float):
    """Blocking code with a window of ObjectRefs; a latency ends when its turn to be got comes."""
    latencies_s: list[float] = []
    window: deque[tuple[float, ray.ObjectRef]] = deque()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        while len(window) < in_flight:
            window.append((time.perf_counter(), call()))
        sent, reference = window.popleft()
        ray.get(reference)
        latencies_s.append(time.perf_counter() - sent)
    wall_s = time.perf_counter() - started
    ray.get([reference for _, reference in window])
    return figure(name, in_flight, latencies_s, wall_s)


def measure_blocking_call(handle, in_flight: int, seconds: float) -> Figure:
    """Blocking code with a window of direct calls."""
    latencies_s: list[float] = []
    window: deque = deque()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        while len(window) < in_flight:
            window.append((time.perf_counter(), handle.call()))
        sent, response = window.popleft()
        response.result(timeout_s=10)
        latencies_s.append(time.perf_counter() - sent)
    wall_s = time.perf_counter() - started
    for _, response in window:
        response.result(timeout_s=10)
    return figure("handle.call().result()", in_flight, latencies_s, wall_s)


async def measure_tasks(name: str, call, in_flight: int, seconds: float) -> Figure:
    """So many coroutines that each await one call after the other."""
    latencies_s: list[float] = []
    deadline = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < deadline:
            sent = time.perf_counter()
            await call()
            latencies_s.append(time.perf_counter() - sent)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return figure(name, in_flight, latencies_s, time.perf_counter() - started)


def make_measures(seconds: float):
    """Everything that is measured, in turn."""
    bare, async_bare = Bare.remote(), AsyncBare.remote()
    for name, target in {"noop": noop, "blocking": blocking_noop}.items():
        serve.create_backend(name, target, config={"max_concurrent_queries": 100})
        serve.create_endpoint(name, backend=name)
    handle, blocking = serve.get_handle("noop"), serve.get_handle("blocking")

    def refs(name, call):
        async def measure(in_flight: int) -> Figure:
            return await asyncio.to_thread(measure_refs, name, call, in_flight, seconds)

        return measure

    async def direct(in_flight: int) -> Figure:
        return await measure_tasks("handle.call", handle.call, in_flight, seconds)

    async def bare_awaited(in_flight: int) -> Figure:
        name = "bare Ray actor call, awaited"
        return await measure_tasks(name, lambda: bare.noop.remote(None), in_flight, seconds)

    async def blocking_call(in_flight: int) -> Figure:
        return await asyncio.to_thread(measure_blocking_call, handle, in_flight, seconds)

    return [
        refs(BARE, lambda: bare.noop.remote(None)),
        refs("bare async Ray actor call", lambda: async_bare.noop.remote(None)),
        bare_awaited,
        refs("handle.remote, async backend", handle.remote),
        refs("handle.remote, blocking backend", blocking.remote),
        direct,
        blocking_call,
    ]


async def collect(seconds: float, rounds: int) -> list[Figure]:
    return await run_rounds(make_measures(seconds), [1, 32], rounds)


if __name__ == "__main__":
    run_benchmark(__doc__, BARE, collect)
