"""What a backend says is found again: on stderr as Ray Serve 1.3 wrote it, and in the segments."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import serve
from serve.session import segment_folder
from tests.conftest import free_port
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import run_script, script_env, wait_until, write_script
from tests.integration.records import Record, read_records, segments

logger = logging.getLogger("ray")
SEED_LINE = (
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\tINFO test_logs\.py:\d+ -- "
    r"%s component=serve backend=%s replica=%s$"
)


class Speaking:
    """Says something in every way, from the constructor on."""

    def __init__(self) -> None:
        logger.info("constructed")
        logging.getLogger("own.module").info("constructed, too")
        print("printed while constructed")

    def __call__(self, request: Any) -> str:
        logger.info("Some info!")
        logging.getLogger("own.module").info("count: %d", 5, extra={"score": 0.5})
        logging.getLogger("urllib3.connectionpool").warning("a library's")
        logging.getLogger("own.module").debug("too fine")
        warnings.warn(f"careful {request.query_params}", stacklevel=1)  # each is told once
        print("printed", "in two parts")
        sys.stderr.write("written to stderr\n")
        return "said"


class Failing:
    """Fails in every place."""

    def __call__(self, request: Any) -> None:
        thread = threading.Thread(target=serve.carry_context(self.fail_in_thread))
        thread.start()
        thread.join()
        raise ValueError("first line\nsecond line")

    def fail_in_thread(self) -> None:
        raise KeyError("in a thread")


class Spreading:
    """Goes on in tasks and threads."""

    async def __call__(self, request: Any) -> str:
        own = logging.getLogger("spread")
        await asyncio.gather(self.tell("task"), asyncio.create_task(self.tell("created")))
        for name, target in (
            ("carried", serve.carry_context(own.info)),
            ("plain", own.info),
        ):
            thread = threading.Thread(target=target, args=[f"thread {name}"], name=f"my-{name}")
            thread.start()
            thread.join()
        await asyncio.to_thread(own.info, "to_thread")
        return "spread"

    async def tell(self, name: str) -> None:
        await asyncio.sleep(0)
        logging.getLogger("spread").info(name)


class Answering:
    """Answers of several sizes, with a line each."""

    async def __call__(self, request: Any) -> Any:
        kind = request.query_params["kind"]
        logging.getLogger("answer").info(kind)
        if kind == "streamed":
            return StreamingResponse(self.stream())
        return b"x" * {"small": 2, "large": 300_000}[kind]

    async def stream(self) -> AsyncIterator[bytes]:
        for number in range(5):
            logging.getLogger("answer").info("chunk %d", number)
            yield b"chunk"
            await asyncio.sleep(0)


class Ticking:
    """Says something without being asked, when told to begin."""

    def __call__(self, request: Any) -> str:
        threading.Timer(0.3, logging.getLogger("tick").info, ["nobody asked"]).start()
        return "soon"


class Deep:
    """Calls another endpoint in both ways."""

    def __init__(self, inner: str) -> None:
        self.handle = serve.get_handle(inner, sync=False)

    async def __call__(self, request: Any) -> str:
        logger.info("outer")
        await self.handle.call("a")
        await (await self.handle.remote("b"))
        return serve.get_request_context().request_id


async def inner(request: Any) -> str:
    logger.info("inner")
    return serve.get_request_context().request_id


async def slow_echo(request: Any) -> str:
    await asyncio.sleep(0.05)
    return request.query_params["who"]


@serve.accept_batch
def in_batches(requests: list[Any]) -> list[int]:
    logging.getLogger("batch").info("batch of %d", len(requests))
    return [len(requests)] * len(requests)


def level_teller(request: Any) -> str:
    own = logging.getLogger("levels")
    own.debug("fine")
    own.info("plain")
    own.warning("loud")
    return "told"


async def app_tell(request: Request) -> PlainTextResponse:
    logging.getLogger("app").info("in the app")
    return PlainTextResponse("from the app")


application = Starlette(routes=[Route("/tell", app_tell)])


def of_request(request_id: str) -> list[Record]:
    return read_records(lambda record: record.get("request_id") == request_id)


def of_replica(tag: str) -> list[Record]:
    return read_records(lambda record: record.get("replica") == tag)


def ask(instance: Instance, path: str, request_id: str, **options: Any) -> httpx.Response:
    answer = instance.http.request(
        options.pop("method", "GET"), path, headers={"X-Request-ID": request_id}, **options
    )
    assert answer.headers["X-Request-ID"] == request_id
    return answer


def worker_lines(text: str) -> list[str]:
    """The lines with `text` in the session's `worker-*.err`."""
    logs = Path(segment_folder()).parent
    return [
        line
        for path in logs.glob("worker-*.err")
        for line in path.read_text(errors="replace").splitlines()
        if text in line
    ]


@pytest.fixture(scope="module")
def speaking(keep: Deploy) -> str:
    """A backend of Speaking, at `/speaking`."""
    return keep(Speaking, route="/speaking")


@pytest.fixture(scope="module")
def answering(keep: Deploy) -> str:
    """A backend of Answering, at `/answering`."""
    return keep(Answering, route="/answering")


@pytest.fixture(scope="module")
def called(keep: Deploy) -> str:
    """A backend of `inner`."""
    return keep(inner)


@pytest.fixture(scope="module")
def teller(keep: Deploy) -> str:
    """A backend of `level_teller`."""
    return keep(level_teller)


@pytest.fixture(scope="module")
def detailed(keep: Deploy) -> str:
    """A backend whose records tell more than others, at `/detailed`."""
    more = {"extra_fields": {"team": "search", "n": 3}, "client_address": True}
    return keep(level_teller, route="/detailed", logging_config=more)


# On stderr.


def test_the_ray_logger_writes_the_line_of_ray_serve_1_3_from_the_constructor_on(
    instance: Instance, speaking: str
) -> None:
    replica = ask(instance, "/speaking", "seed-line").headers["X-Serve-Replica"]

    for message in ("constructed", "Some info!"):
        wanted = re.compile(SEED_LINE % (re.escape(message), speaking, re.escape(replica)))
        wait_until(lambda wanted=wanted: [x for x in worker_lines(replica) if wanted.match(x)])
    assert wait_until(lambda: worker_lines("written to stderr"))


def test_ray_shows_the_line_on_the_driver(
    ray_cluster: None, ray_address: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = """
        import logging, sys
        import ray, requests, serve

        ray.init(address=sys.argv[1])
        serve.start(http_options={"port": int(sys.argv[2])})

        def snippet(request):
            logging.getLogger("ray").info("Some info!")
            return "said"

        serve.create_backend("my_backend", snippet, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint("my_endpoint", backend="my_backend", route="/my")
        requests.get(f"http://127.0.0.1:{sys.argv[2]}/my")
        input()
        serve.shutdown()
        """
    line = re.compile(
        r"^\(RayServeReplica_snippet pid=\d+\).* INFO script\.py:\d+ -- Some info! "
        r"component=serve backend=my_backend replica=my_backend#[A-Za-z]{6}$",
        re.M,
    )
    script = write_script(code, tmp_path)
    with (
        open(told, "w") as output,
        subprocess.Popen(
            [sys.executable, "-u", str(script), ray_address, str(free_port())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            text=True,
            env=script_env(None),
        ) as driver,
    ):

        def shown() -> str:
            return re.sub(r"\x1b\[[0-9;]*m", "", told.read_text()).replace("\t", " ")

        try:
            wait_until(lambda: line.search(shown()) or driver.poll(), 120)
        finally:
            driver.communicate("\n", timeout=60)
    assert driver.returncode == 0 and line.search(shown()), shown()


# In the segments.


def test_nothing_that_a_backend_says_vanishes(instance: Instance, speaking: str) -> None:
    replica = ask(instance, "/speaking?once", "says-all").headers["X-Serve-Replica"]

    told = {
        (r["logger"], r["level"], r["message"].partition("\n")[0]): r
        for r in of_request("says-all")
        if r["kind"] == "log"
    }
    assert {(key[0], key[1]) for key in told} == {
        ("ray", "INFO"),
        ("own.module", "INFO"),
        ("urllib3.connectionpool", "WARNING"),
        ("py.warnings", "WARNING"),
        ("stdout", "INFO"),
        ("stderr", "WARNING"),
    }
    for record in told.values():
        assert (record["backend"], record["replica"]) == (speaking, replica)
        assert (record["endpoint"], record["route"]) == (speaking, "/speaking")
        assert record["component"] == "serve"
    counted = told[("own.module", "INFO", "count: 5")]
    assert (counted["file"], counted["extra"]) == ("test_logs.py", {"score": 0.5})
    assert ("stdout", "INFO", "printed in two parts") in told
    assert ("stderr", "WARNING", "written to stderr") in told


def test_the_constructors_records_have_the_replica_and_no_request(
    speaking: str,
) -> None:
    (replica,) = [
        view.tag
        for view in serve.connect().status().observed.replicas.values()
        if view.backend_tag == speaking
    ]

    told = [r for r in of_replica(replica) if "request_id" not in r]

    assert [r["logger"] for r in told] == ["ray", "own.module", "stdout"]
    assert {r["backend"] for r in told} == {speaking}
    assert all("constructed" in r["message"] for r in told)


def test_an_exception_is_one_record_wherever_it_is_raised(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(Failing)
    assert ask(instance, f"/{name}", "fails").status_code == 500

    failed = [r for r in of_request("fails") if r.get("exception")]

    in_thread, in_handler = failed
    assert "KeyError: 'in a thread'" in in_thread["exception"]
    assert "fail_in_thread" in in_thread["exception"]
    assert "ValueError: first line\nsecond line" in in_handler["exception"]
    assert in_handler["level"] == "ERROR"
    (access,) = [r for r in of_request("fails") if r["kind"] == "access"]
    assert (access["status"], access["level"]) == (500, "ERROR")
    assert access["error"].startswith("ValueError: first line")


def test_tasks_and_threads_keep_the_context(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Spreading)
    replica = ask(instance, f"/{name}", "spreads").headers["X-Serve-Replica"]

    told = {r["message"]: r for r in of_replica(replica) if r.get("logger") == "spread"}

    carried = {message for message, r in told.items() if r.get("request_id") == "spreads"}
    assert carried == {"task", "created", "thread carried", "thread plain", "to_thread"}
    assert told["thread plain"]["thread"] == "my-plain"


def test_a_nested_call_has_the_same_request_id_in_every_replica(
    instance: Instance, bring_up: Deploy, called: str
) -> None:
    caller = bring_up(Deep, called)

    assert ask(instance, f"/{caller}", "deep").text == "deep"

    records = of_request("deep")
    assert [r["message"] for r in records if r.get("logger") == "ray"].count("inner") == 2
    access = {r["way"]: r for r in records if r["kind"] == "access"}
    assert set(access) == {"http", "call", "remote"}
    for way in ("call", "remote"):
        assert access[way]["backend"] == called
        assert access[way]["method"] == "__call__"
        assert access[way]["parent_id"] == access["http"]["span_id"]


def test_two_clients_with_the_same_id_get_their_own_answers(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(slow_echo)

    def get(who: str) -> str:
        headers = {"X-Request-ID": "twins"}
        return httpx.get(instance.url(f"/{name}?who={who}"), headers=headers).text

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(get, ["ann", "bob"])) == ["ann", "bob"]
    assert len([r for r in of_request("twins") if r["kind"] == "access"]) == 2


def test_a_batchs_lines_carry_the_ids_of_all_its_requests(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(in_batches, max_batch_size=3, batch_wait_timeout=60)
    ids = [f"batched-{number}" for number in range(3)]

    def get(request_id: str) -> int:
        headers = {"X-Request-ID": request_id}
        size: int = httpx.get(instance.url(f"/{name}"), headers=headers, timeout=30).json()
        return size

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(get, ids)) == [3, 3, 3]
    (access,) = [r for r in of_request(ids[0]) if r["kind"] == "access"]
    (said,) = [r for r in of_replica(access["replica"]) if r.get("logger") == "batch"]
    assert sorted(said["batch_ids"]) == ids
    assert "request_id" not in said


# Access records.


def test_the_access_record_of_http_has_the_facts_as_fields(
    instance: Instance, answering: str
) -> None:
    serve.create_endpoint("posted", backend=answering, route="/posted", methods=["POST"])
    answer = ask(instance, "/posted?kind=small&secret=1", "facts", method="POST", content=b"12345")

    (record,) = [r for r in of_request("facts") if r["kind"] == "access"]

    assert record["way"] == "http"
    assert (record["method"], record["path"]) == ("POST", "/posted")
    assert (record["route"], record["endpoint"]) == ("/posted", "posted")
    assert (record["status"], record["level"]) == (200, "INFO")
    assert record["bytes_out"] == 2
    assert record["replica"] == answer.headers["X-Serve-Replica"]
    assert 0 <= record["queue_ms"] < 10_000
    assert 0 < record["processing_ms"] < 10_000
    assert "client" not in record
    assert "secret" not in json.dumps(record)


def test_an_asgi_application_leaves_the_same_records(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(application)
    assert ask(instance, f"/{name}/tell", "in-app").text == "from the app"

    log, access = of_request("in-app")
    assert (log["logger"], log["message"]) == ("app", "in the app")
    assert (access["path"], access["route"]) == (f"/{name}/tell", f"/{name}")


def test_a_driver_s_calls_have_access_records(called: str) -> None:
    handle = serve.get_handle(called)

    direct = handle.call().result(60)
    remote = ray.get(handle.remote(), timeout=10)

    assert direct != remote
    ways = [(of_request(request_id)[-1]["way"]) for request_id in (direct, remote)]
    assert ways == ["call", "remote"]


# What is promised.


@pytest.mark.parametrize("kind", ["small", "large", "streamed"])
def test_when_the_client_has_the_whole_answer_the_records_are_in_the_file(
    instance: Instance, answering: str, kind: str
) -> None:
    lines = {"small": 1, "large": 1, "streamed": 6}[kind]
    for number in range(50):
        request_id = f"promise-{kind}-{number}"
        ask(instance, f"/answering?kind={kind}", request_id)

        kinds = [record["kind"] for record in of_request(request_id)]  # now, not in a moment
        assert kinds == ["log"] * lines + ["access"]


@pytest.mark.parametrize("way", ["call", "remote"])
def test_when_a_caller_has_the_result_the_records_are_in_the_file(called: str, way: str) -> None:
    handle = serve.get_handle(called)
    for _ in range(20):
        if way == "call":
            request_id = handle.call().result(60)
        else:
            request_id = ray.get(handle.remote(), timeout=10)
        assert [record["kind"] for record in of_request(request_id)] == ["log", "access"]


def test_what_is_said_between_requests_is_written_soon(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(Ticking)
    replica = ask(instance, f"/{name}", "tick").headers["X-Serve-Replica"]

    def ticks() -> list[Record]:
        return [r for r in of_replica(replica) if r.get("message") == "nobody asked"]

    assert len(wait_until(ticks)) == 1


def test_a_full_segment_is_followed_by_another(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(Answering, logging_config={"segment_bytes": 4096})
    for number in range(40):
        replica = ask(instance, f"/{name}?kind=small", f"full-{number}").headers["X-Serve-Replica"]

    paths = segments(f"replica_{replica}.")
    assert len(paths) > 2
    assert [path.name.split(".")[-2] for path in paths] == [
        f"{number:06d}" for number in range(1, len(paths) + 1)
    ]
    assert all(4096 <= path.stat().st_size < 4096 + 2000 for path in paths[:-1])
    records = of_replica(replica)
    access = [r for r in records if r["kind"] == "access"]
    assert [r["request_id"] for r in access] == [f"full-{number}" for number in range(40)]
    times = [r["time"] for r in records]
    assert times == sorted(set(times))


# Options.


def messages(name: str, request_id: str) -> list[str]:
    return [r["message"] for r in of_request(request_id) if r["kind"] == "log"]


def test_a_backends_logging_is_changed_while_it_runs(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(level_teller)
    steps: list[tuple[dict[str, Any], list[str], int]] = [
        ({}, ["plain", "loud"], 1),
        ({"level": "DEBUG"}, ["fine", "plain", "loud"], 1),
        ({"level": "WARNING"}, ["loud"], 1),
        ({"access_log": False}, ["loud"], 0),
        ({"level": "INFO", "access_log": True}, ["plain", "loud"], 1),
    ]
    for number, (change, expected, access) in enumerate(steps):
        if change:
            serve.update_backend_config(name, {"logging_config": change})
        request_id = f"change-{number}"
        ask(instance, f"/{name}", request_id)
        ours = [r for r in of_request(request_id) if r.get("logger") in (None, "levels")]
        assert [r["message"] for r in ours if r["kind"] == "log"] == expected
        assert len([r for r in ours if r["kind"] == "access"]) == access


def test_extra_fields_are_on_every_record(instance: Instance, detailed: str) -> None:
    ask(instance, "/detailed", "extra")

    assert {(r["team"], r["n"], r["kind"]) for r in of_request("extra")} == {
        ("search", 3, "log"),
        ("search", 3, "access"),
    }


def test_the_clients_address_is_told_when_it_is_asked_for(
    instance: Instance, detailed: str
) -> None:
    ask(instance, "/detailed", "addressed")

    assert of_request("addressed")[-1]["client"] == "127.0.0.1"


def test_the_copy_on_stderr_may_be_json_or_none(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(level_teller, logging_config={"encoding": "JSON"})
    ask(instance, f"/{name}", "copied-as-json")

    def copies() -> list[Record]:
        lines = [x for x in worker_lines("copied-as-json") if x.startswith("{")]
        return [json.loads(line) for line in lines]

    wait_until(lambda: [c["message"] for c in copies()] == ["plain", "loud"])

    serve.update_backend_config(name, {"logging_config": {"stderr": False}})
    ask(instance, f"/{name}", "not-copied")
    time.sleep(0.3)
    assert worker_lines("not-copied") == []
    assert len(of_request("not-copied")) == 3


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"level": "LOUD"}, "LOUD"),
        ({"encoding": "XML"}, "encoding"),
        ({"segment_bytes": 1}, "segment_bytes"),
        ({"extra_fields": {"replica": "forged"}}, "replica"),
        ({"colour": True}, "colour"),
    ],
)
def test_a_bad_option_is_refused_before_anything_changes(
    teller: str, bad: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        serve.update_backend_config(teller, {"logging_config": bad})
    with pytest.raises(ValidationError, match=named):
        serve.create_backend("never", level_teller, config={"logging_config": bad})

    assert "never" not in serve.list_backends()
    assert serve.get_backend_config(teller).logging_config is None


def test_an_instances_options_come_from_start_and_from_the_environment(
    ray_cluster: None, ray_address: str
) -> None:
    ran = run_script(
        """
        import logging, sys
        import ray, serve

        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        serve.start(
            http_options={"location": "NoServer"}, logging_config={"extra_fields": {"team": "x"}}
        )

        def tell(request):
            logging.getLogger("tell").debug("fine")
            return serve.get_request_context().request_id

        serve.create_backend("configured", tell, ray_actor_options={"num_cpus": 0})
        serve.create_backend("own", tell, ray_actor_options={"num_cpus": 0},
                             config={"logging_config": {"level": "INFO"}})
        for name in ("configured", "own"):
            serve.create_endpoint(name, backend=name)
            print(serve.get_handle(name).call().result(60))
        serve.shutdown()
        """,
        ray_address,
        env={"TAGTRAIL_LOG_LEVEL": "DEBUG"},
    )
    assert ran.returncode == 0, ran.stderr
    configured, own = map(of_request, ran.stdout.split())
    assert [(r["kind"], r["team"]) for r in configured] == [("log", "x"), ("access", "x")]
    assert [(r["kind"], r["team"]) for r in own] == [("access", "x")]


def test_a_variable_that_is_not_known_is_named() -> None:
    ran = run_script(
        """
        import serve

        try:
            serve.start()
        except ValueError as error:
            print(error)
        """,
        env={"TAGTRAIL_LOG_LEVLE": "DEBUG"},
    )
    assert "TAGTRAIL_LOG_LEVLE" in ran.stdout, ran.stderr
    assert "TAGTRAIL_LOG_LEVEL" in ran.stdout


def test_the_controllers_and_the_ingresss_own_words_are_records_too(teller: str) -> None:
    def told(component: str) -> list[str]:
        return [
            r["message"]
            for r in read_records(lambda r: r["component"] == component and r["kind"] == "log")
        ]

    wait_until(lambda: any(f"to endpoint '{teller}'" in text for text in told("controller")))
    wait_until(lambda: any("Starting HTTP proxy" in text for text in told("ingress")))
