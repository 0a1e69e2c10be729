"""What a replica's sidecar reads out of their shared memory, and what follows from it."""

from __future__ import annotations

import json
import mmap
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from observability.fields import ENDED_WORDS
from observability.instrument.clock import format_time
from serve.records import ReplicaAddress
from serve.replica.sidecar import handover
from serve.replica.sidecar.client import MOST_OTHERS, Line, SidecarClient, choose_others
from serve.replica.sidecar.exit import describe_exit, name_exit, read_exit
from serve.replica.sidecar.handover import see_idle
from serve.replica.sidecar.program import MESSAGE_BYTES
from serve.replica.sidecar.registry import enter, leave, living, registry_folder
from serve.replica.sidecar.report import Report
from serve.replica.sidecar.slots import HEAD, KEPT_BYTES, SLOT_BYTES, Lost, Stage, read_slot
from serve.replica.sidecar.verdict import (
    Ended,
    Settings,
    Verdict,
    describe_end,
    judge,
    make_answer,
)

SETTINGS = Settings("model", "model#abc", 1, "/segments", {}, "/registry")


def head(method: str = "GET", *headers: str) -> bytes:
    lines = (f"{method} /f HTTP/1.1", "x-request-id: r-1", *headers, "", "")
    return "\r\n".join(lines).encode()


def running(kept: bytes, began_s: float = 5.0) -> Lost:
    return Lost(Stage.RUNNING, kept, began_s)


@pytest.fixture
def memory() -> mmap.mmap:
    return mmap.mmap(-1, 2 * SLOT_BYTES)


def read(memory: mmap.mmap, unread: bytes = b"", sent: int = 0) -> Lost:
    return read_slot(memory[SLOT_BYTES:], unread, sent)


def test_a_connection_is_at_what_the_replica_noted_last(memory: mmap.mmap) -> None:
    line = Line(memory, 1, -1)
    assert read(memory) == Lost(Stage.IDLE)
    line.begin(head())
    lost = read(memory)
    assert (lost.stage, lost.kept, lost.is_begun) == (Stage.RUNNING, head(), True)
    line.send(10)
    line.end(5)
    assert read(memory, sent=15) == Lost(Stage.IDLE)
    line.begin(head("POST"))
    assert (read(memory, sent=15).stage, read(memory, sent=15).kept) == (
        Stage.RUNNING,
        head("POST"),
    )
    assert memory[:SLOT_BYTES] == bytes(SLOT_BYTES)  # the neighbour's


@pytest.mark.parametrize(
    ("sent", "stage"), [(0, Stage.RUNNING), (1, Stage.ANSWERING), (14, Stage.ANSWERING)]
)
def test_an_answer_that_was_written_may_not_have_left(
    memory: mmap.mmap, sent: int, stage: Stage
) -> None:
    line = Line(memory, 1, -1)
    line.begin(head())
    line.send(10)
    assert read(memory, sent=min(sent, 10)).stage is stage
    line.end(5)
    assert read(memory, sent=sent).stage is stage


def test_what_is_sent_before_an_answer_is_none_of_it(memory: mmap.mmap) -> None:
    line = Line(memory, 1, -1)
    line.begin(head("POST"))
    line.send_before(25)  # 100 Continue
    assert read(memory, sent=25).stage is Stage.RUNNING
    line.send(10)
    assert read(memory, sent=25).stage is Stage.RUNNING
    assert read(memory, sent=26).stage is Stage.ANSWERING
    line.end(0)
    assert read(memory, sent=35) == Lost(Stage.IDLE)


def test_a_head_that_does_not_fit_is_kept_in_part_and_never_repeated(memory: mmap.mmap) -> None:
    Line(memory, 1, -1).begin(long := head("GET", "a: " + "x" * SLOT_BYTES))
    lost = read(memory)
    assert lost.kept == long[:KEPT_BYTES]
    assert HEAD.size + KEPT_BYTES == SLOT_BYTES
    assert (lost.request_id, lost.is_repeatable) == ("r-1", False)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_lies_unread_never_began(memory: mmap.mmap, method: str) -> None:
    Line(memory, 1, -1)
    lost = read(memory, head(method, "content-length: 900") + b"part of its body")
    assert (lost.stage, lost.is_begun, lost.is_repeatable) == (Stage.RUNNING, False, True)
    assert (lost.request_id, lost.runs) == ("r-1", 0)


@pytest.mark.parametrize("unread", [b"", b"\x00\x01", b"GET", b"\x82\x05frame"])
def test_what_is_no_request_is_nothing(memory: mmap.mmap, unread: bytes) -> None:
    Line(memory, 1, -1)
    assert read(memory, unread) == Lost(Stage.IDLE)


def test_unread_bytes_beside_an_answer_are_no_request(memory: mmap.mmap) -> None:
    line = Line(memory, 1, -1)
    line.begin(head("POST", "content-length: 100"))
    line.send(10)
    assert judge(read(memory, head(), sent=10), SETTINGS) is Verdict.CLOSE


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        (Lost(Stage.IDLE), Verdict.CLOSE),
        (Lost(Stage.ANSWERING, head(), 5.0), Verdict.CLOSE),
        (running(head()), Verdict.REPEAT),
        (running(head("DELETE")), Verdict.REPEAT),
        (running(head("PUT", "content-length: 0")), Verdict.REPEAT),
        (running(head("PUT", "content-length: 10")), Verdict.ANSWER),
        (running(head("GET", "Transfer-Encoding: chunked")), Verdict.ANSWER),
        (running(head("GET", "upgrade: websocket")), Verdict.ANSWER),
        (running(head("POST")), Verdict.ANSWER),
        (running(head("PATCH")), Verdict.ANSWER),
        (running(head()[:-2]), Verdict.ANSWER),
        (running(head() + b"more"), Verdict.ANSWER),
        (running(head("GET", "x-serve-attempts: 1")), Verdict.ANSWER),
        (running(head("POST"), 0.0), Verdict.REPEAT),
        (running(head("GET", "x-serve-attempts: 5"), 0.0), Verdict.REPEAT),
    ],
)
def test_who_gets_an_answer_who_another_replica_and_who_nothing(
    lost: Lost, verdict: Verdict
) -> None:
    assert judge(lost, SETTINGS) is verdict


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_no_request_runs_more_often_than_that(retries: int) -> None:
    lost, runs = running(head()), 1
    while judge(lost, SETTINGS._replace(retries=retries)) is Verdict.REPEAT:
        lost, runs = running(lost.repeated()), runs + 1
        assert lost.runs == runs
    assert runs == 1 + retries


def test_what_is_repeated_is_the_request_and_closes_its_connection() -> None:
    assert running(head()).repeated() == (
        b"GET /f HTTP/1.1\r\nx-serve-attempts: 1\r\nconnection: close\r\nx-request-id: r-1\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (running(head("POST")), "ended while it ran the request (attempt 1); it may have been"),
        (running(head(), 0.0), "ended before it began the request; it was not executed."),
    ],
)
def test_the_answer_names_the_replica_and_says_whether_it_ran(lost: Lost, said: str) -> None:
    answer = make_answer(SETTINGS, lost).decode()
    top, _, body = answer.partition("\r\n\r\n")
    assert top.startswith("HTTP/1.1 502 Bad Gateway\r\n")
    assert f"x-serve-died: {lost.runs} model#abc" in top
    assert f"content-length: {len(body)}\r\n" in top
    assert said in body and '"model#abc" of backend "model"' in body


@pytest.mark.parametrize(
    ("lost", "verdict", "said"),
    [
        (running(head()), Verdict.REPEAT, "ran the request (attempt 1, 250 ms): another one gets"),
        (running(head()), Verdict.ANSWER, "ran the request (attempt 1, 250 ms): it was answered"),
        (running(head(), 0.0), Verdict.REPEAT, "before it began the request: another one gets"),
        (Lost(Stage.ANSWERING, head(), 5.0), Verdict.CLOSE, "sent the answer, which was cut"),
    ],
)
def test_the_record_says_what_became_of_it(lost: Lost, verdict: Verdict, said: str) -> None:
    assert said in describe_end(Ended(lost, verdict), 5.25)


def test_a_tag_of_any_characters_stays_within_its_header() -> None:
    answer = make_answer(SETTINGS._replace(replica="a b: c#xyz"), running(head()))
    (died,) = re.findall(rb"x-serve-died: ([^\r]+)\r\n", answer)
    assert died == b"1 a b: c#xyz"


def test_whoever_lives_is_found_where_it_said_it_is(tmp_path: Path) -> None:
    folder = registry_folder(str(tmp_path), "controller", "model")
    assert list(living(folder)) == []
    enter(folder, "model#a", "127.0.0.1", 1)
    enter(folder, "model#b", "127.0.0.1", 2)
    assert set(living(folder)) == {("127.0.0.1", 1), ("127.0.0.1", 2)}
    enter(folder, "model#a", "127.0.0.1", 3)  # it came back elsewhere
    assert set(living(folder)) == {("127.0.0.1", 3), ("127.0.0.1", 2)}
    leave(folder, "model#b", os.getpid() + 1)  # another process's word
    leave(folder, "model#a", os.getpid())
    assert list(living(folder)) == [("127.0.0.1", 2)]


async def test_a_replica_is_found_from_its_first_address_on_until_it_ends_in_order(
    tmp_path: Path,
) -> None:
    client = SidecarClient(SETTINGS._replace(registry=str(tmp_path)))
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("", 0)) as second:
        client.cover_listener(first)
        client.cover_listener(second)  # for other nodes
        assert list(living(str(tmp_path))) == [first.getsockname()]
    client.stop()
    assert list(living(str(tmp_path))) == []


def test_whoever_is_dead_is_not_found(tmp_path: Path) -> None:
    enter(str(tmp_path), "model#a", "127.0.0.1", 1)
    (entry,) = tmp_path.iterdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    entry.write_text(f"127.0.0.1 1 {gone.pid}\n")
    (tmp_path / "half").write_text("127.0.0.1")
    assert list(living(str(tmp_path))) == []


def addresses(count: int) -> list[ReplicaAddress]:
    return [
        ReplicaAddress(f"model#{n}", "actor", "node", "203.0.113.100", 10_000 + n, 1)
        for n in range(count)
    ]


def test_of_very_many_other_replicas_a_sidecar_is_told_of_some_by_chance() -> None:
    chosen = choose_others(addresses(5000), "model#0")
    assert len(set(chosen)) == len(chosen) == MOST_OTHERS
    assert set(chosen) != set(choose_others(addresses(5000), "model#0"))
    assert len(json.dumps(chosen)) < MESSAGE_BYTES / 4  # beside them stand the paths of imports


def test_of_a_few_other_replicas_a_sidecar_is_told_of_each_but_its_own() -> None:
    others = [("203.0.113.100", 10_000), ("203.0.113.100", 10_002)]
    assert choose_others(addresses(3), "model#1") == others


def test_two_backends_and_two_instances_do_not_meet() -> None:
    folders = {registry_folder("/s", c, b) for c in ("c", "d") for b in ("a/b", "a b")}
    assert len(folders) == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (3 << 8, "ended: exit code 3"),
        (9, "by SIGKILL: somebody's kill -9, Ray, or the kernel when memory runs out"),
        (11 | 0x80, "by SIGSEGV: native code"),
        (15, "by SIGTERM"),
        (64, "by SIGRTMAX"),
        (None, "process ended"),
    ],
)
def test_how_the_process_ended_is_said_in_words(status: int | None, said: str) -> None:
    assert said in describe_exit(status)


@pytest.mark.parametrize(
    ("status", "name"),
    [(3 << 8, "exit code 3"), (9, "SIGKILL"), (99, "signal 99"), (None, "unknown")],
)
def test_how_the_process_ended_has_a_name(status: int | None, name: str) -> None:
    assert name_exit(status) == name


def test_the_records_of_an_end_have_its_time_whenever_they_are_written(tmp_path: Path) -> None:
    static = {"replica": "model#abc"}
    report = Report(str(tmp_path), "replica_model#abc", static, 9, time.monotonic() - 60)
    report.tell("it ran", Lost(Stage.RUNNING, head(), time.monotonic() - 61))
    report.close()
    (path,) = tmp_path.iterdir()
    end, ran = map(json.loads, path.read_bytes().splitlines())
    assert end["message"].startswith(ENDED_WORDS)
    assert end["time"] < ran["time"] < format_time(time.time_ns() - 59 * 10**9)
    assert (end["died_by"], ran["died_by"]) == ("SIGKILL", "SIGKILL")
    assert (ran["request_id"], ran.get("retries", 0)) == ("r-1", 0)
    assert 900 < ran["processing_ms"] < 1100


@pytest.mark.parametrize(("code", "status"), [("os._exit(3)", 3 << 8), ("os.kill(0, 0)", 0)])
def test_the_kernel_tells_how_a_process_ended_if_it_is_new_enough(code: str, status: int) -> None:
    with subprocess.Popen([sys.executable, "-c", f"import os; {code}"]) as process:
        pidfd = os.pidfd_open(process.pid)
    told = read_exit(pidfd)
    os.close(pidfd)
    assert told in (status, None)


@pytest.fixture
def other() -> Iterator[socket.socket]:
    """Another replica: it answers one request, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + asked.partition(b" HTTP")[0])

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener
        thread.join(60)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_met_the_replicas_end_on_an_idle_connection_gets_another_replica(
    other: socket.socket, tmp_path: Path, method: str
) -> None:
    told: SimpleQueue[Ended] = SimpleQueue()
    ours, theirs = socket.socketpair()
    left, gone = socket.socketpair()
    left.close()  # HAProxy has closed this one: nothing to wait for
    settings = SETTINGS._replace(registry=str(tmp_path), others=[other.getsockname()])
    waiting = threading.Thread(target=see_idle, args=([theirs, gone], settings, told))
    waiting.start()
    ours.sendall(head(method))
    ours.settimeout(60)
    answer = b""
    while data := ours.recv(65_536):
        answer += data
    ours.close()
    assert answer == f"HTTP/1.1 200 OK\r\n\r\n{method} /f".encode()
    waiting.join(60)
    assert not waiting.is_alive()
    lost, verdict = told.get(timeout=60)
    assert (lost.is_begun, lost.request_id, verdict) == (False, "r-1", Verdict.REPEAT)
    assert gone.fileno() < 0


def test_idle_connections_are_closed_when_no_request_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "IDLE_S", 0.01)
    ours, theirs = socket.socketpair()
    see_idle([theirs], SETTINGS, SimpleQueue())
    assert ours.recv(1) == b""
    ours.close()
