"""`tagtrail logs` and `trace` with `--loki`: what they show is what the segments have.

Against a stand-in always, and against a real Loki when `TAGTRAIL_LOKI_BIN` names one.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from observability.instrument.access import AccessRecord
from observability.instrument.access_log import AccessLog
from observability.instrument.clock import next_time
from observability.instrument.encode import encode_line, encode_tail
from observability.instrument.formatter import LogLine
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from observability.loki.client import LokiClient, LokiError
from observability.loki.entries import encode_push
from observability.loki.source import LokiSource
from observability.trail import Query, SegmentFolder, find_request
from tests.conftest import free_port
from tests.integration.command import tagtrail
from tests.integration.follower import follow
from tests.integration.loki_api import PASSWORD, LokiApi, run_loki, run_loki_api
from tests.integration.processes import wait_until

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NOTICE")
ODD = 'say "hi"\\n {a="b"} |= `x` \t \n\0 ünï 😀'


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Segments of a front that calls a store in a batch, and of an ingress."""
    folder = tmp_path_factory.mktemp("segments")
    for backend, replica in (("front", "front#aaaaaa"), ("store", "store#bbbbbb"), ("", "")):
        name = f"replica_{replica}" if replica else "ingress_10.0.0.1"
        writer = SegmentWriter(str(folder), name, Retention(64 * 1024 * 1024, 1e9, 1 << 40))
        static = {"component": "serve", "backend": backend, "replica": replica, "pid": 1}
        if not replica:
            static = {"component": "ingress", "pid": 2}
        for request in range(60):
            write_request(writer, static, f"r-{request}", request)
        writer.close()
    return folder


def write_request(writer: SegmentWriter, static: dict[str, Any], request_id: str, n: int) -> None:
    tail = encode_tail(static)
    own = {"endpoint": "greet", "request_id": request_id, "span_id": f"{n:016x}"}
    if "replica" not in static:
        if n % 10 == 0:
            record = AccessRecord(
                way="http", method="GET", path="/lost", status=404, request_id=f"lost-{n}"
            )
            AccessLog(writer, static).write(record)
        return
    level = LEVELS[n % len(LEVELS)]
    line = LogLine(next_time(), "log", level, "said", f"{ODD} number {n}", "a.py", n, **own)
    writer.append(encode_line(line, tail))
    ids = {"batch_ids": (request_id, f"other-{n}")}
    batched = LogLine(next_time(), "log", "INFO", "batch", "of two", extra={"n": n}, **ids)
    writer.append(encode_line(batched, tail))
    is_front = static["backend"] == "front"
    AccessLog(writer, static).write(
        AccessRecord(
            **{"way": "http" if is_front else "call", "method": "GET", "path": "/greet"},
            **{"status": 200 + n % 4 * 100, "endpoint": "greet", "request_id": request_id},
            **({"span_id": f"{n:016x}"} if is_front else {"parent_id": f"{n:016x}"}),
            **{"queue_ms": 0.25, "processing_ms": 1.5},
        )
    )


def push(url: str, lines: list[bytes], tenant: str | None = None) -> None:
    """As an agent does."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    if tenant:
        headers["X-Scope-OrgID"] = tenant
    body = gzip.compress(encode_push(lines, {}))
    answer = requests.post(f"{url}/loki/api/v1/push", data=body, headers=headers, timeout=30)
    assert answer.status_code == 204, answer.text


def lines_of(folder: Path) -> list[bytes]:
    return [
        line
        for path in sorted(folder.glob("*.log"))
        for line in path.read_bytes().split(b"\n")
        if line
    ]


@pytest.fixture(scope="module", params=["stand-in", "real"])
def loki(
    request: pytest.FixtureRequest, segments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a Loki that has the segments' records."""
    with run_loki(request.param, tmp_path_factory.mktemp("loki")) as url:
        push(url, lines_of(segments))
        yield url


@pytest.fixture
def api() -> Iterator[LokiApi]:
    """An empty stand-in."""
    with run_loki_api() as found:
        yield found


def logs(*options: str) -> list[str]:
    done = tagtrail("logs", "--json", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def make_line(message: str, **static: Any) -> bytes:
    tail = encode_tail({"component": "serve", "backend": "b", "replica": "b#1", **static})
    return encode_line(LogLine(next_time(), "log", "INFO", "l", message), tail)


# The same as from the segments.


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--backend", "store", "--level", "warning"),
        ("--replica", "front#aaaaaa", "-n", "7"),
        ("--request-id", "r-7"),
        ("--grep", 'say "hi"', "--endpoint", "greet"),
    ],
    ids=str,
)
def test_logs_shows_what_it_shows_of_the_segments(
    loki: str, segments: Path, options: tuple[str, ...]
) -> None:
    expected = logs("--folder", str(segments), *options)

    assert logs("--loki", loki, *options) == expected
    assert len(expected) >= 4


def test_trace_shows_the_same_tree(loki: str, segments: Path) -> None:
    done = tagtrail("trace", "r-7", "--loki", loki)

    assert done.returncode == 0, done.stderr
    assert done.stdout == tagtrail("trace", "r-7", "--folder", str(segments)).stdout
    assert "└─ call greet.GET" in done.stdout


@pytest.mark.parametrize("page_entries", [10, 1000])
@pytest.mark.parametrize(
    "wanted",
    [
        *({"level": level} for level in ("DEBUG", "INFO", "WARNING", "CRITICAL")),
        {"request_id": "other-3"},
        {"request_id": "r"},
        {"text": ODD},
        {"text": "\n"},
        {"text": "number 4", "backend": "front"},
        {"endpoint": "greet", "replica": "store#bbbbbb"},
        {"backend": 'fr"ont'},
    ],
    ids=str,
)
def test_every_query_has_the_answer_of_the_segments(
    loki: str, segments: Path, wanted: dict[str, str], page_entries: int
) -> None:
    query = Query(**wanted)
    expected = list(SegmentFolder(segments).read(query))
    source = LokiSource(LokiClient(loki, page_entries=page_entries))

    assert list(source.read(query)) == expected
    assert source.read_last(query, 5) == expected[-5:]
    assert source.problems() == []


def test_both_ends_of_a_time_are_within_it(loki: str, segments: Path) -> None:
    everything = list(SegmentFolder(segments).read(Query()))
    query = Query(since=everything[10]["time"], until=everything[20]["time"])

    assert list(LokiSource(LokiClient(loki)).read(query)) == everything[10:21]


def test_a_request_is_found_from_python(loki: str, segments: Path) -> None:
    source = LokiSource(LokiClient(loki))
    assert find_request(source, "r-5") == find_request(SegmentFolder(segments), "r-5")


def test_finding_nothing_is_exit_code_1(loki: str) -> None:
    done = tagtrail("logs", "--loki", loki, "--backend", "nobody")

    assert done.returncode == 1
    assert f"No record found in Loki at {loki}" in done.stderr
    assert "--since 30d" in done.stderr
    assert tagtrail("trace", "never-seen", "--loki", loki).returncode == 1


def test_a_query_that_loki_refuses_is_told_in_its_own_words(loki: str) -> None:
    done = tagtrail("logs", "--loki", loki, "--since", "60d")

    assert done.returncode == 1
    assert "the query time range exceeds the limit" in done.stderr
    assert "--since" in done.stderr


def test_follow_shows_what_comes_from_now_on_until_ctrl_c(loki: str) -> None:
    push(loki, [make_line("before", replica="b#follow")])
    with follow("auto", "--loki", loki, "--replica", "b#follow") as shown:
        number, deadline = 0, time.monotonic() + 120
        while not shown:
            number += 1
            assert time.monotonic() < deadline, "nothing was shown"
            push(loki, [make_line(f"first {number}", replica="b#follow")])
            time.sleep(0.3)
        late = make_line("late", replica="b#follow")
        push(loki, [make_line("next", replica="b#follow")])
        wait_until(lambda: "next" in [r["message"] for r in shown])
        push(loki, [late])
        wait_until(lambda: "late" in [r["message"] for r in shown])
    messages = [record["message"] for record in shown]
    assert "before" not in messages
    assert len(messages) == len(set(messages))


# What the stand-in can do and a Loki only now and then.


def test_more_records_of_one_time_than_loki_tells_are_an_error_not_a_loss(api: LokiApi) -> None:
    moment, tail = next_time(), encode_tail({"component": "serve"})
    push(api.url, [encode_line(LogLine(moment, "log", "INFO", "l", f"{n}"), tail) for n in "abc"])

    assert len(list(LokiSource(LokiClient(api.url, page_entries=4)).read(Query()))) == 3
    with pytest.raises(LokiError, match=r"3 entries have the time .* --backend or --grep"):
        list(LokiSource(LokiClient(api.url, page_entries=3)).read(Query()))


def test_the_last_records_are_read_without_the_others(api: LokiApi, segments: Path) -> None:
    push(api.url, lines_of(segments))
    assert len(logs("--loki", api.url, "-n", "3")) == 3

    (asked,) = api.queries
    assert (asked["direction"], asked["limit"]) == ("backward", "100")


def test_a_line_that_is_no_record_is_left_out_and_told(api: LokiApi) -> None:
    push(api.url, [make_line("whole")])
    api.keep(time.time_ns(), "half a li")

    done = tagtrail("logs", "--loki", api.url)

    assert len(done.stdout.splitlines()) == 1
    assert "1 lines are no records" in done.stderr


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_loki_that_has_too_much_to_do_is_asked_again(api: LokiApi, status: int) -> None:
    push(api.url, [make_line("found")])
    api.failures = [status, status]
    waits: list[float] = []
    client = LokiClient(api.url, wait=waits.append)

    assert [r["message"] for r in LokiSource(client).read(Query())] == ["found"]
    assert waits == [0.5, 1.0]


def test_not_without_end(api: LokiApi) -> None:
    api.failures = [503] * 9
    client = LokiClient(api.url, wait=lambda wait_s: None)

    with pytest.raises(LokiError, match=r"refuses \(503\): too busy It was asked several times"):
        list(LokiSource(client).read(Query()))
    assert len(api.failures) == 5


def test_name_and_password_are_in_the_address_and_in_no_message(api: LokiApi) -> None:
    push(api.url, [make_line("secret")])
    api.needs_password = True
    host = api.url.removeprefix("http://")

    assert len(logs("--loki", f"http://me:se%3Acret%40@{host}")) == 1
    done = tagtrail("logs", "--loki", f"http://me:{PASSWORD[:3]}@{host}")
    assert done.returncode == 1
    assert "refuses (401): no credentials" in done.stderr
    assert "--loki-tenant" in done.stderr
    assert PASSWORD[:3] not in done.stderr


def test_a_tenant_sees_its_own_records(api: LokiApi) -> None:
    push(api.url, [make_line("ours")], tenant="team-a")

    (line,) = logs("--loki", api.url, "--loki-tenant", "team-a")
    assert json.loads(line)["message"] == "ours"
    assert tagtrail("logs", "--loki", api.url, "--loki-tenant", "team-b").returncode == 1


def test_a_loki_below_a_path_is_reached() -> None:
    with run_loki_api(prefix="/logs") as api:
        push(api.url, [make_line("below")])
        assert len(logs("--loki", f"{api.url}/")) == 1
        done = tagtrail("logs", "--loki", api.url.removesuffix("/logs"))
    assert "refuses (404)" in done.stderr
    assert "with the path" in done.stderr


def test_what_is_no_loki_is_told_so(api: LokiApi) -> None:
    api.failures = [200]  # with a text that is no JSON, as a page for logging in is

    done = tagtrail("logs", "--loki", api.url)

    assert done.returncode == 1
    assert "does not answer as Loki does" in done.stderr


def test_a_loki_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (("logs",), ("logs", "--follow"), ("trace", "x")):
        done = tagtrail(*command, "--loki", url)
        assert done.returncode == 1
        assert f"Loki can't be reached at {url} (ConnectionError). Does it run?" in done.stderr


def test_following_goes_on_when_loki_was_away() -> None:
    port = free_port()
    told: list[str] = []
    url = f"http://127.0.0.1:{port}"
    with run_loki_api(port) as api:
        push(api.url, [make_line("before")])
        following = follow("auto", "--loki", url, told=told)
        shown = following.__enter__()
        wait_until(lambda: api.queries)
    wait_until(lambda: told)
    with run_loki_api(port) as api:
        push(api.url, [make_line("after")])
        wait_until(lambda: shown)
        following.__exit__(None, None, None)
    assert [record["message"] for record in shown] == ["after"]
    assert len(told) == 1
    assert "can't be reached" in told[0]


# Wrong usage.


@pytest.mark.parametrize("command", [("logs",), ("trace", "x")])
def test_two_places_at_once_are_wrong_usage(command: tuple[str, ...], tmp_path: Path) -> None:
    done = tagtrail(*command, "--loki", "http://127.0.0.1:3100", "--folder", str(tmp_path))

    assert done.returncode == 2
    assert "--loki and --folder" in done.stderr


def test_a_tenant_without_a_loki_is_wrong_usage() -> None:
    done = tagtrail("logs", "--loki-tenant", "team-a")

    assert done.returncode == 2
    assert "--loki URL" in done.stderr
