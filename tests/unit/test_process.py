"""Processes that are started to stay, and are stopped by who did not start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from observability.stack import process

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `sh -c <script>`; all are gone afterwards."""
    children = []

    def begin(script: str) -> subprocess.Popen[bytes]:
        child = process.start(["/bin/sh", "-c", script], tmp_path, tmp_path / "log")
        children.append(child)
        return child

    yield begin
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.wait(10)


def wait_for(get: Callable[[], object], limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while not get():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_works_in_its_folder_and_what_it_says_is_in_its_log(
    start: Start, tmp_path: Path
) -> None:
    assert start("pwd; echo wrong >&2").wait(10) == 0
    assert process.last_lines(tmp_path / "log") == f"{tmp_path}\nwrong"
    assert process.last_lines(tmp_path / "log", 1) == "wrong"


def test_what_it_said_the_time_before_is_kept(start: Start, tmp_path: Path) -> None:
    for word in ("first", "second"):
        start(f"echo {word}").wait(10)
    assert (tmp_path / "log").read_text() == "second\n"
    assert (tmp_path / "log.old").read_text() == "first\n"


def test_the_terminal_does_not_reach_it(start: Start) -> None:
    child = start("exec sleep 60")
    assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_a_process_is_known_by_its_id_and_its_begin(start: Start) -> None:
    child = start("exec sleep 60")
    identity = process.identity_of(child.pid)
    assert process.is_running(child.pid, identity)
    assert not process.is_running(child.pid, f"1{identity}")
    assert identity != process.identity_of(os.getpid())


def test_one_that_ended_and_was_not_collected_does_not_run(start: Start) -> None:
    child = start("exit 3")
    wait_for(lambda: process.identity_of(child.pid) == "")
    assert not process.is_running(child.pid, "")
    assert child.wait(10) == 3


def test_one_that_ends_by_itself_is_stopped_politely(start: Start, tmp_path: Path) -> None:
    child = start("trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.01; done")
    wait_for(lambda: process.last_lines(tmp_path / "log") == "up")
    assert process.stop(child.pid, process.identity_of(child.pid), 10)
    assert process.last_lines(tmp_path / "log").endswith("bye")


@pytest.mark.slow
def test_one_that_does_not_hear_is_killed(start: Start, tmp_path: Path) -> None:
    child = start("trap '' TERM; echo up; while :; do sleep 0.01; done")
    wait_for(lambda: process.last_lines(tmp_path / "log") == "up")
    assert not process.stop(child.pid, process.identity_of(child.pid), 0.2)
    assert child.wait(10) == -signal.SIGKILL


def test_what_it_has_started_itself_ends_too(start: Start, tmp_path: Path) -> None:
    child = start("sleep 60 & echo $!; wait")
    wait_for(lambda: process.last_lines(tmp_path / "log"))
    grandchild = int(process.last_lines(tmp_path / "log"))
    assert process.identity_of(grandchild)
    process.stop(child.pid, process.identity_of(child.pid), 10)
    assert process.identity_of(grandchild) == ""


def test_another_process_with_the_same_id_is_left_alone(start: Start) -> None:
    child = start("exec sleep 60")
    assert process.stop(child.pid, "somebody else", 10)
    assert child.poll() is None


def test_one_that_is_gone_needs_no_stopping(start: Start) -> None:
    child = start("exec sleep 60")
    identity = process.identity_of(child.pid)
    child.kill()
    child.wait(10)
    assert process.stop(child.pid, identity, 10)


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="there is no ps")
def test_without_a_proc_the_same_is_asked_of_ps(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PROC", tmp_path / "none")
    child = start("exec sleep 60")
    identity = process.identity_of(child.pid)
    assert process.is_running(child.pid, identity)
    assert process.stop(child.pid, identity, 10)
    assert process.identity_of(child.pid) == ""


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        process.start([f"{tmp_path}/none"], tmp_path, tmp_path / "log")


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert process.last_lines(tmp_path / "none") == ""
