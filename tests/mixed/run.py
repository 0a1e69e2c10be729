"""One mixed run: sends the requests, waits until all is recorded, compares."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from serve.call import Call
from serve.handle.untold import Reason, record_untold_calls
from tests.integration.processes import is_alive, wait_until
from tests.integration.records import Record, read_records
from tests.integration.series import Series, page
from tests.mixed.kinds import KINDS, Kind, World
from tests.mixed.seen import Counts, Difference, Seen, compare, differing
from tests.mixed.wire import Wire

CLIENTS = 48
KILL_EVERY_S = 1.0
SETTLE_S = 30.0
MORTAL = "mortal"
"""The backend whose replicas die; its records count, its counters are lost with the processes."""


@dataclass
class Run:
    """What was sent and seen.

    Attributes:
        name: what the names of the endpoints begin with.
        seed: which requests are sent, and in which order.
        seen: all requests.
        told: records of calls of which no replica tells. A driver writes none; this one keeps them.
        kills: how many replicas were killed from outside.
        wall_s: how long sending took.
    """

    name: str
    seed: int
    seen: list[Seen] = field(default_factory=list)
    told: list[Record] = field(default_factory=list)
    kills: int = 0
    wall_s: float = 0.0

    def tell(self, call: Call, way: str, backend: str, reason: Reason, replica: str) -> None:
        """Keep what a replica would have written."""
        error, status = reason.value
        self.told.append(
            {
                "component": "driver",
                "pid": os.getpid(),
                "request_id": call.request_id,
                "way": way,
                "endpoint": call.endpoint,
                "backend": backend,
                **({"replica": replica} if replica else {}),
                "status": status,
                "error": error,
            }
        )


def plan(requests: int, seed: int, kinds: Iterable[Kind] = KINDS) -> list[Kind]:
    """The kinds of a run's requests, in order: each in proportion to its weight, shuffled."""
    weighted = [kind for kind in kinds if kind.weight]
    chooser = random.Random(seed)
    total = sum(kind.weight for kind in weighted)
    chosen = [kind for kind in weighted for _ in range(round(requests * kind.weight / total))]
    chosen += chooser.choices(weighted, [k.weight for k in weighted], k=requests)
    del chosen[requests:]
    chooser.shuffle(chosen)
    return chosen


async def drive(run: Run, port: int, requests: int) -> None:
    """Send all, from many clients at once."""
    record_untold_calls(run.tell)
    kinds = plan(requests, run.seed)
    todo = iter(enumerate(kinds))
    pace = asyncio.Lock()
    begun = time.monotonic()
    is_killing = any(kind.name == "while replicas are killed" for kind in kinds)
    mortals: set[int] = set()
    killer = asyncio.create_task(_kill(run, mortals)) if is_killing else None
    clients = (
        _client(
            run,
            World(port, run.name, Wire(port), random.Random(run.seed + n), pace, mortals),
            todo,
        )
        for n in range(CLIENTS)
    )
    try:
        await asyncio.gather(*clients)
    finally:
        if killer is not None:
            killer.cancel()
    run.wall_s = time.monotonic() - begun


async def _client(run: Run, world: World, todo: Iterable[tuple[int, Kind]]) -> None:
    for number, kind in todo:
        request_id = f"{run.name}-{number}"
        # In a task: what one request sets in its context is not the next one's.
        task = asyncio.create_task(kind.client(world, request_id))  # type: ignore[arg-type]
        try:
            saw, wants = await task
        except Exception as error:
            raise AssertionError(f"{kind.name} {request_id} (seed {run.seed})") from error
        run.seen.append(Seen(kind.name, request_id, saw, tuple(wants)))
    world.wire.close()


async def _kill(run: Run, mortals: set[int]) -> None:
    """End a replica of the mortal backend now and then, as a fault would."""
    chooser = random.Random(run.seed)
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        if alive := sorted(filter(_is_replica, mortals)):
            os.kill(chooser.choice(alive), signal.SIGKILL)
            run.kills += 1


def _is_replica(pid: int) -> bool:
    """Whether a process runs and is a replica still: its number could be another's by now."""
    try:
        return b"RayServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def settle(run: Run) -> list[Difference]:
    """What differs between clients, records and counters once nothing changes any more."""
    problems: list[Difference] = []

    def agree() -> bool:
        problems[:] = check(run)
        return not problems

    try:
        wait_until(agree, SETTLE_S)
        time.sleep(0.5)  # a record too many would come late
    except AssertionError:
        return problems
    finally:
        record_untold_calls(None)
    return check(run)


def check(run: Run) -> list[Difference]:
    """What differs now."""
    prefix = f"{run.name}-"
    records = read_records(
        lambda record: (
            record["kind"] == "access" and record.get("request_id", "").startswith(prefix)
        ),
        may_end_half=f"{prefix}{MORTAL}",
    )
    mortals = {r["pid"] for r in records if r.get("replica", "").startswith(f"{prefix}{MORTAL}#")}
    dead = frozenset(pid for pid in mortals if not is_alive(pid))
    differences = compare(run.seen, [*records, *run.told], dead)
    return differences or differing(*_numbers(run, records, page()))


def _numbers(
    run: Run, records: list[Record], series: list[Series]
) -> tuple[Counts, dict[tuple[str, ...], float]]:
    """Records and counters by the same keys.

    Compared are, of each backend that nobody kills, every counter of its replicas' that a request
    moves; and of the ingress, the requests to these backends and to the mortal one that it recorded
    by itself. Requests that no endpoint takes are counted under no name of ours: they are left to
    the records. A killed replica's counters are gone with it.
    """
    prefix, mortal = f"{run.name}-", f"{run.name}-{MORTAL}"
    counts: Counter[tuple[str, ...]] = Counter()
    counters: Counter[tuple[str, ...]] = Counter()
    for record in records:
        for key in _keys(record):
            counts[key] += 1
    for name, tags, value in series:
        key = _key_of(name, tags)
        if key is not None and value:
            counters[key] += int(value)

    def is_ours(key: tuple[str, ...]) -> bool:
        _, owner, replica, *_ = key
        return owner.lstrip("/").startswith(prefix) and not (
            replica and owner.lstrip("/").startswith(mortal)
        )

    return (
        {key: n for key, n in counts.items() if is_ours(key)},
        {key: n for key, n in counters.items() if is_ours(key)},
    )


_ENDED = "ray_serve_endpoint_requests_total"
_HTTP = "ray_serve_num_http_requests_total"
_ROUTED = "ray_serve_num_router_requests_total"
_DONE = "ray_serve_backend_request_counter_total"
_FAILED = "ray_serve_backend_error_counter_total"
_OWNER = {
    _ENDED: "endpoint",
    _HTTP: "route",
    _ROUTED: "endpoint",
    _DONE: "backend",
    _FAILED: "backend",
}
_REACHED_A_REPLICA = ("replica_died", "replica_timeout", "bad_answer")


def _keys(record: Record) -> list[tuple[str, ...]]:
    """The counters that a record's request has moved: (name, owner, replica, ...)."""
    # The ingress names the replica that had a request; it counts for all of them together.
    by_replica = record["component"] != "ingress"
    endpoint, replica = record.get("endpoint", ""), record.get("replica", "") if by_replica else ""
    status, way = record["status"], record["way"]
    backend = record.get("backend", "")
    keys: list[tuple[str, ...]] = [(_ENDED, endpoint, replica, backend, f"{status // 100}xx", way)]
    if way in ("http", "websocket"):
        keys.append((_HTTP, record.get("route", ""), replica))
    if replica or record.get("error") in _REACHED_A_REPLICA:
        keys.append((_ROUTED, endpoint, replica))
    if replica and status >= 500:
        keys.append((_FAILED, backend, replica))
    elif replica and status != 499:
        keys.append((_DONE, backend, replica))
    return keys


def _key_of(name: str, tags: dict[str, str]) -> tuple[str, ...] | None:
    owner = _OWNER.get(name)
    if owner is None:
        return None
    rest = ("backend", "status_class", "way") if name == _ENDED else ()
    return (name, *(tags.get(tag, "") for tag in (owner, "replica", *rest)))
