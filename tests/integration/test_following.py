"""`tagtrail logs`, `trace` and `top`, as typed, and the same from Python."""

from __future__ import annotations

import itertools
import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import serve
from observability.trail import Query, SegmentFolder, find_request
from serve.session import segment_folder
from tests.integration.command import tagtrail, typed_tagtrail
from tests.integration.conftest import Deploy, Instance
from tests.integration.follower import follow
from tests.integration.processes import wait_until


async def store(request: Any) -> str:
    logging.getLogger("store").warning("nearly full")
    if request.data == "fail":
        raise OSError("disk full")
    return "stored"


class Front:
    def __init__(self, inner: str) -> None:
        self.handle = serve.get_handle(inner, sync=False)

    async def __call__(self, request: Any) -> str:
        logging.getLogger("front").info("asking the store")
        wanted = request.query_params.get("what", "well")
        return await self.handle.call(wanted)


@pytest.fixture(scope="module")
def endpoints(keep: Deploy) -> tuple[str, str]:
    """(front, store): the first calls the second, and has its name for a route."""
    inner = keep(store)
    return keep(Front, inner, route="/{name}"), inner


def ask(instance: Instance, path: str, request_id: str) -> dict[str, str]:
    answer = instance.http.get(path, headers={"X-Request-ID": request_id})
    return {"status": str(answer.status_code), **answer.headers}


def logs(*options: str) -> list[dict[str, Any]]:
    done = tagtrail("logs", "--json", "--folder", segment_folder(), *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# trace


def test_trace_shows_a_request_as_a_tree(
    instance: Instance, endpoints: tuple[str, str], ray_address: str
) -> None:
    front, inner = endpoints
    replica = ask(instance, f"/{front}", "tree")["x-serve-replica"]

    done = typed_tagtrail("--address", ray_address, "trace", "tree")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Request tree")
    assert re.match(rf"GET /{front}  200  {re.escape(replica)}  \+0\.0 ms .*ran ", lines[1])
    assert any(line.startswith("│") and "INFO" in line and "asking" in line for line in lines)
    (child,) = [line for line in lines if line.startswith("└─ ")]
    assert f"call {inner}.__call__  200  {inner}#" in child
    assert "WARNING" in lines[lines.index(child) + 1]
    assert "nearly full" in lines[lines.index(child) + 1]


def test_a_failed_step_stands_out(
    instance: Instance, endpoints: tuple[str, str], ray_address: str
) -> None:
    front, inner = endpoints
    assert ask(instance, f"/{front}?what=fail", "failed-tree")["status"] == "500"

    done = tagtrail("--address", ray_address, "trace", "failed-tree")
    assert "✗ OSError: disk full" in done.stdout
    assert "OSError: disk full" in done.stdout.split("└─ ")[1]

    (root,) = json.loads(
        tagtrail("--address", ray_address, "trace", "failed-tree", "--json").stdout
    )
    (child,) = root["children"]
    assert (child["access"]["status"], child["access"]["endpoint"]) == (500, inner)


def test_trace_knows_what_only_the_ingress_saw(instance: Instance, ray_address: str) -> None:
    assert ask(instance, "/no/such/path", "only-ingress")["status"] == "404"

    def shown() -> str:
        return tagtrail("--address", ray_address, "trace", "only-ingress").stdout

    assert "404" in wait_until(shown)
    assert "ingress" in shown()


def test_an_unknown_id_is_an_error_with_the_next_step(instance: Instance, ray_address: str) -> None:
    done = tagtrail("--address", ray_address, "trace", "never-seen")

    assert done.returncode == 1
    assert "'never-seen' left no record" in done.stderr
    assert "X-Request-ID" in done.stderr


# logs


def test_logs_finds_records_by_each_of_its_options(
    instance: Instance, endpoints: tuple[str, str]
) -> None:
    front, inner = endpoints
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    front_replica = ask(instance, f"/{front}", "found")["x-serve-replica"]
    ours = ("--since", began)

    by_id = logs("--request-id", "found")
    assert len(by_id) == 4
    assert [r["time"] for r in by_id] == sorted(r["time"] for r in by_id)
    (store_replica,) = {r["replica"] for r in by_id} - {front_replica}

    assert {r["replica"] for r in logs("--backend", inner, *ours)} == {store_replica}
    assert {r["backend"] for r in logs("--replica", front_replica)} == {front}
    by_endpoint = logs("--endpoint", front, *ours)
    assert {r["endpoint"] for r in by_endpoint} == {front}
    assert "found" in {r["request_id"] for r in by_endpoint}
    of_it = ("--request-id", "found")
    loud = logs("--level", "warning", "--replica", store_replica, *of_it)
    assert [r["message"] for r in loud] == ["nearly full"]
    text = logs("--grep", "asking the store", "--replica", front_replica, *of_it)
    assert [r["logger"] for r in text] == ["front"]
    (last,) = logs("--request-id", "found", "-n", "1")
    assert last == by_id[-1]


def test_logs_for_people_are_one_line_each_in_colour_on_a_terminal_only(
    instance: Instance, endpoints: tuple[str, str], ray_address: str
) -> None:
    front, _ = endpoints
    ask(instance, f"/{front}", "for-people")

    done = typed_tagtrail("--address", ray_address, "logs", "--request-id", "for-people")

    assert len(done.stdout.splitlines()) == 4
    assert "\x1b[" not in done.stdout
    assert "asking the store" in done.stdout


def test_logs_of_a_replica_that_is_gone_are_still_there(
    instance: Instance, bring_up: Deploy, endpoints: tuple[str, str]
) -> None:
    front = bring_up(Front, endpoints[1])
    replica = ask(instance, f"/{front}", "gone")["x-serve-replica"]
    serve.delete_endpoint(front)
    serve.delete_backend(front)

    assert "gone" in {r.get("request_id") for r in logs("--replica", replica)}


def test_finding_nothing_is_exit_code_1(instance: Instance, ray_address: str) -> None:
    done = tagtrail("--address", ray_address, "logs", "--backend", "nobody")

    assert done.returncode == 1
    assert "--since 1d" in done.stderr


@pytest.mark.parametrize("since", ["yesterday", "10 parsecs", "-5m"])
def test_a_time_that_is_none_is_wrong_usage(since: str) -> None:
    done = tagtrail("logs", "--since", since)

    assert done.returncode == 2
    assert since in done.stderr


def test_follow_shows_what_is_written_from_now_on_until_ctrl_c(
    instance: Instance, endpoints: tuple[str, str], ray_address: str
) -> None:
    front, _ = endpoints
    ask(instance, f"/{front}", "before-following")
    with follow(ray_address) as shown:
        numbers = itertools.count()

        def is_shown() -> bool:
            ask(instance, f"/{front}", f"following-{next(numbers)}")
            return any(r.get("request_id", "").startswith("following-") for r in shown)

        wait_until(is_shown, 120)
    assert "before-following" not in {r.get("request_id") for r in shown}


def test_without_ray_a_folder_is_read(instance: Instance, endpoints: tuple[str, str]) -> None:
    front, _ = endpoints
    ask(instance, f"/{front}", "from-folder")

    done = tagtrail("trace", "from-folder", "--folder", segment_folder())

    assert done.returncode == 0, done.stderr
    assert "asking the store" in done.stdout


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = tagtrail("logs", "--folder", str(tmp_path / "none"))

    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr


# top


def test_top_shows_rates_by_endpoint_backend_and_replica(
    instance: Instance, endpoints: tuple[str, str], ray_address: str
) -> None:
    front, inner = endpoints
    is_over = threading.Event()

    def keep_asking() -> None:
        while not is_over.is_set():
            ask(instance, f"/{front}", "topped")
            time.sleep(0.01)

    asker = threading.Thread(target=keep_asking)
    asker.start()
    try:
        done = tagtrail("--address", ray_address, "top", "-n", "1", "--json")
        table = typed_tagtrail("--address", ray_address, "top", "-n", "1")
    finally:
        is_over.set()
        asker.join(30)

    assert done.returncode == 0, done.stderr
    rows = {(r["endpoint"], r["backend"], r["replica"]): r for r in json.loads(done.stdout)["rows"]}
    for name in (front, inner):
        assert rows[(name, "", "")]["per_s"] > 1
        assert rows[(name, "", "")]["errors_per_s"] == 0
        (replica,) = [key[2] for key in rows if key[:2] == (name, name) and key[2]]
        assert replica.startswith(f"{name}#")
        assert rows[(name, name, replica)]["p99_ms"] > 0
    assert re.search(rf"^ *{front} +\d", table.stdout, re.M), table.stdout
    assert re.search(rf"^ *{front}#\w{{6}} +\d", table.stdout, re.M), table.stdout


# From Python.


def test_the_same_from_python(instance: Instance, endpoints: tuple[str, str]) -> None:
    front, inner = endpoints
    ask(instance, f"/{front}", "from-python")
    source = SegmentFolder(Path(segment_folder()))

    (root,) = find_request(source, "from-python")
    assert root.access is not None
    assert root.access["endpoint"] == front
    assert [child.access["endpoint"] for child in root.children if child.access] == [inner]

    found = list(source.read(Query(backend=inner, level="WARNING", request_id="from-python")))
    assert [record["message"] for record in found] == ["nearly full"]
