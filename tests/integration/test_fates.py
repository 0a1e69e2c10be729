"""What `tagtrail trace` says of a step that has no access record: under way and where, killed, its
record dropped by a full disk, or lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serve
from serve import HTTPRequest
from serve.session import segment_folder
from tests.integration.command import tagtrail
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.records import Record, read_records, segments

Told = dict[str, Any]
HOLD_S = 120
"""No test lasts so long: what is held is let go by the file that is removed."""


def hold(mark: str) -> None:
    """Until the file is gone."""
    deadline = time.monotonic() + HOLD_S
    while Path(mark).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


async def until_written(words: str) -> None:
    """Until what this process said of this request is in a segment: it ends next."""
    request_id, pid = serve.get_request_context().request_id, os.getpid()

    def is_it(record: Record) -> bool:
        about = record.get("request_id"), record.get("pid"), record.get("message")
        return about == (request_id, pid, words)

    while not read_records(is_it, may_end_half="replica_"):
        await asyncio.sleep(0.02)


async def say_and_exit(words: str, code: int) -> None:
    logging.getLogger("dying").warning(words)
    await until_written(words)
    os._exit(code)


async def store(request: Any) -> str:
    return "stored"


def blocking(request: Any) -> str:
    hold(request.data or request.query_params["hold"])
    return "done"


@serve.accept_batch
async def batching(requests: list[Any]) -> list[str]:
    while any(Path(request.query_params["hold"]).exists() for request in requests):
        await asyncio.sleep(0.02)
    return ["done"] * len(requests)


class Front:
    """Calls another endpoint; does to its own process what it is asked to."""

    def __init__(self, inner: str) -> None:
        self.handle = serve.get_handle(inner, sync=False)

    async def __call__(self, request: HTTPRequest) -> str:
        asked = request.query_params
        logging.getLogger("front").warning("asking")
        if "disk" in asked:  # "full": no file of this process may grow
            soft = 0 if asked["disk"] == "full" else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        answer = await self.handle.call(asked.get("hold"))
        if "die" in asked:
            await until_written("asking")
            os.kill(os.getpid(), signal.SIGKILL)
        if "block" in asked:
            hold(asked["block"])
        return answer


@pytest.fixture(scope="module")
def inner(keep: Deploy) -> str:
    return keep(store)


@pytest.fixture(scope="module")
def front(keep: Deploy, inner: str) -> str:
    return keep(Front, inner, route="/{name}")


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What is held until the test is over."""
    made = tmp_path / "hold"
    made.touch()
    yield made
    made.unlink(missing_ok=True)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def told_of(request_id: str, address: str = "") -> list[Told]:
    """The trees as the cluster tells them; without its address, as the files alone do."""
    place = () if address else ("--folder", segment_folder())
    asked = ("--address", address or "auto", "trace", request_id, "--json", *place)
    done = tagtrail(*asked)
    return json.loads(done.stdout) if done.stdout else []


def walk(roots: list[Told]) -> Iterator[Told]:
    for root in roots:
        yield root
        yield from walk(root["children"])


def wait_for(address: str, request_id: str, is_it: Callable[[Told], bool]) -> list[Told]:
    """The trees once a step is so."""

    def look() -> list[Told]:
        roots = told_of(request_id, address)
        return roots if any(map(is_it, walk(roots))) else []

    return wait_until(look)


def has_called(step: Told) -> bool:
    """Whether a call that it made has ended."""
    return any(child["state"] == "ended" for child in step["children"])


def get(instance: Instance, path: str, request_id: str) -> int:
    return instance.http.get(path, headers={"X-Request-ID": request_id}).status_code


def shown(address: str, request_id: str) -> str:
    return tagtrail("--address", address, "trace", request_id).stdout


# under way


@pytest.mark.parametrize(
    ("target", "config", "stages"),
    [
        (blocking, {}, {"run", "thread"}),
        (blocking, {"handler_threads": 2, "max_concurrent_queries": 1}, {"run"}),
        (batching, {"max_batch_size": 1}, {"run", "batch"}),
    ],
    ids=["thread", "limit", "batch"],
)
def test_requests_under_way_are_told_with_what_they_are_at(
    instance: Instance,
    bring_up: Deploy,
    ray_address: str,
    mark: Path,
    pool: ThreadPoolExecutor,
    target: Any,
    config: dict[str, Any],
    stages: set[str],
) -> None:
    name = bring_up(target, **config)
    ids = [f"{name}-{number}" for number in range(len(stages))]
    answers = [pool.submit(get, instance, f"/{name}?hold={mark}", each) for each in ids]

    def stages_seen() -> set[str]:
        roots = [root for each in ids for root in told_of(each, ray_address)]
        return {root["stage"] for root in roots if root["state"] == "under_way"}

    wait_until(lambda: stages_seen() == stages)
    first = told_of(ids[0], ray_address)[0]
    assert first["access"]["replica"].startswith(f"{name}#")
    assert not first["failed"]
    text = shown(ray_address, ids[0])
    assert f"GET /{name}  under way  {name}#" in text
    assert "since 20" in text
    mark.unlink()
    assert [answer.result() for answer in answers] == [200] * len(stages)
    for each in ids:
        (root,) = told_of(each, ray_address)
        assert (root["state"], root["access"]["status"], root["children"]) == ("ended", 200, [])


def test_a_nested_call_under_way_is_told_below_its_caller(
    instance: Instance,
    bring_up: Deploy,
    ray_address: str,
    mark: Path,
    pool: ThreadPoolExecutor,
) -> None:
    """One replica of one place: the first call runs, the second waits for the replica."""
    slow = bring_up(blocking, max_concurrent_queries=1)
    name = bring_up(Front, slow)
    ids = [f"{name}-{number}" for number in range(2)]
    answers = [pool.submit(get, instance, f"/{name}?hold={mark}", each) for each in ids]

    def calls() -> dict[str, str]:
        trees = [root for each in ids for root in told_of(each, ray_address)]
        assert all(root["access"]["endpoint"] == name for root in trees)
        return {child["stage"]: child["state"] for root in trees for child in root["children"]}

    wait_until(lambda: calls() == {"run": "under_way", "queue": "under_way"})

    def texts() -> str:
        return "".join(shown(ray_address, each) for each in ids)

    wait_until(lambda: texts().count("WARNING test_fates.py") == 2)
    assert f"└─ call {slow}.__call__  under way  {slow}#" in texts()
    assert f"waits for a free replica of {slow}" in texts()
    mark.unlink()
    assert [answer.result() for answer in answers] == [200] * 2


def test_a_request_that_blocks_its_replicas_loop_is_told(
    instance: Instance,
    front: str,
    ray_address: str,
    mark: Path,
    pool: ThreadPoolExecutor,
) -> None:
    answer = pool.submit(get, instance, f"/{front}?block={mark}", "blocking")
    (root,) = wait_for(ray_address, "blocking", has_called)
    assert (root["state"], root["stage"]) == ("under_way", "run")
    mark.unlink()
    assert answer.result() == 200


def test_without_the_replicas_it_is_not_known_whether_a_step_is_under_way(
    instance: Instance,
    front: str,
    ray_address: str,
    mark: Path,
    pool: ThreadPoolExecutor,
) -> None:
    answer = pool.submit(get, instance, f"/{front}?block={mark}", "from-files")
    wait_for(ray_address, "from-files", has_called)
    done = tagtrail("trace", "from-files", "--folder", segment_folder())
    assert "no record (yet): under way, or lost" in done.stdout
    roots = told_of("from-files")
    assert "unknown" in {step["state"] for step in walk(roots)}
    mark.unlink()
    assert answer.result() == 200


# killed


def test_an_attempt_that_its_replica_did_not_survive_is_told(
    instance: Instance, bring_up: Deploy, inner: str, ray_address: str
) -> None:
    name = bring_up(Front, inner, num_replicas=2, retries=1)
    assert get(instance, f"/{name}?die", f"{name}-died") == 502
    attempts = wait_for(
        ray_address,
        f"{name}-died",
        lambda step: len([c for c in step["children"] if c["state"] == "killed"]) == 2,
    )[0]["children"]
    assert [child["attempt"] for child in attempts] == [1, 2]
    assert {child["died_by"] for child in attempts} <= {"SIGKILL", "unknown"}
    for attempt in attempts:
        assert any(record["message"] == "asking" for record in attempt["logs"])
        assert [child["access"]["endpoint"] for child in attempt["children"]] == [inner]
    text = shown(ray_address, f"{name}-died")
    assert "attempt 1  killed" in text and "attempt 2  killed" in text
    assert "✗ its process ended" in text


class Mortal:
    """Its first replica dies of the request, whoever gets it next answers."""

    async def __call__(self, request: Any) -> str:
        mark = Path(request.query_params["mark"])
        if mark.exists():
            return "alive"
        mark.touch()
        await say_and_exit("farewell", 3)
        return "it did not exit"


def test_a_request_that_another_replica_answered_shows_its_first_attempt(
    instance: Instance, bring_up: Deploy, ray_address: str, tmp_path: Path
) -> None:
    name = bring_up(Mortal, num_replicas=2)
    request_id = f"{name}-again"
    answer = instance.http.get(
        f"/{name}?mark={tmp_path / 'died'}", headers={"X-Request-ID": request_id}
    )
    assert answer.text == "alive"
    (root,) = wait_for(ray_address, request_id, lambda step: step["state"] == "killed")
    assert root["access"]["replica"] == answer.headers["X-Serve-Replica"]
    assert root["access"]["retries"] == 1
    (attempt,) = root["children"]
    assert attempt["died_by"] in ("exit code 3", "unknown")
    assert "farewell" in [record["message"] for record in attempt["logs"]]
    assert attempt["logs"][0]["replica"] != answer.headers["X-Serve-Replica"]
    assert root["started"] <= attempt["started"] + 0.05
    assert attempt["processing_ms"] <= root["queue_ms"]


def test_a_call_that_its_replica_did_not_survive_shows_how_that_ended(
    instance: Instance, bring_up: Deploy, ray_address: str
) -> None:
    dying = bring_up(dies)
    name = bring_up(Front, dying)
    assert get(instance, f"/{name}", f"{name}-call") == 500
    roots = wait_for(ray_address, f"{name}-call", lambda step: step["state"] == "killed")
    (call,) = roots[0]["children"]
    assert (call["access"]["error"], call["access"]["endpoint"]) == ("replica_died", dying)
    (attempt,) = call["children"]
    assert attempt["died_by"] in ("exit code 7", "unknown")
    assert [r["message"] for r in attempt["logs"]] == ["last words"]


async def dies(request: Any) -> None:
    await say_and_exit("last words", 7)


# dropped


def test_a_step_whose_record_a_full_disk_did_not_take_is_told_apart(
    instance: Instance, bring_up: Deploy, inner: str, ray_address: str
) -> None:
    name = bring_up(Front, inner)
    request_id = f"{name}-full"
    assert get(instance, f"/{name}?disk=full", request_id) == 200
    roots = wait_for(ray_address, request_id, lambda step: step["state"] == "dropped")
    (step,) = [each for each in walk(roots) if each["state"] == "dropped"]
    assert step["dropped"] >= 1
    assert [child["access"]["endpoint"] for child in step["children"]] == [inner]
    assert f"not recorded: at {name}#" in shown(ray_address, request_id)
    # Nothing at all is known of one that called nobody.
    gone = tagtrail("--address", ray_address, "trace", "nothing-known")
    assert gone.returncode == 1
    assert "records could not be written and are lost" in gone.stderr

    assert get(instance, f"/{name}?disk=room", f"{name}-room") == 200

    def gaps() -> list[dict[str, Any]]:
        return read_records(lambda r: bool(r.get("dropped")), name=name, may_end_half=name)

    (gap,) = wait_until(gaps)
    assert gap["level"] == "ERROR"
    assert gap["dropped"] >= step["dropped"]
    assert gap["dropped_since"] < gap["time"]
    again = told_of(request_id)
    assert "dropped" in {each["state"] for each in walk(again)}


# lost


def test_a_step_of_which_nothing_is_known_is_lost(
    instance: Instance, bring_up: Deploy, ray_address: str
) -> None:
    """Somebody removed its segment."""
    name = bring_up(Front, bring_up(store))
    request_id = f"{name}-lost"
    assert get(instance, f"/{name}", request_id) == 200
    for path in segments(f"replica_{name}#"):
        path.unlink()
    before = {g["time"] for g in read_records(lambda r: bool(r.get("dropped")))}
    (root,) = told_of(request_id, ray_address)
    assert root["state"] in ("lost", *(("dropped",) if before else ()))
    if not before:
        assert "lost: no record, no replica has it under way" in shown(ray_address, request_id)
