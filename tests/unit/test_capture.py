"""All that a process says becomes records."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from observability.instrument.capture import Capture, install
from observability.instrument.context import RequestContext, request_context
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.origin import read_origin
from observability.instrument.segments import SegmentWriter

STATIC = {"component": "serve", "backend": "b", "replica": "b#abcdef", "pid": 7}
SUFFIX = " component=serve backend=b replica=b#abcdef"
WAIT_S = 20.0

Record = dict[str, Any]


class Process:
    """This process, captured.

    Args:
        folder: of the segments and of its stderr.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "segments"
        self.stderr_path = folder / "stderr"
        self.captures: list[Capture] = []

    def capture(self, config: LoggingConfig | None = None, *, streams: bool = False) -> Capture:
        """Begin."""
        config = config or LoggingConfig()
        writer = SegmentWriter(str(self.folder), "replica_b#abcdef", config.retention)
        made = install(writer, STATIC, config, streams=streams)
        self.captures.append(made)
        return made

    def records(self) -> list[Record]:
        """What is in the segments by now."""
        paths = sorted(self.folder.glob("*.log"))
        return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]

    def wait_for(self, is_there: Callable[[list[Record]], bool]) -> list[Record]:
        """The records, once they are as wanted."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            records = self.records()
            if is_there(records):
                return records
            time.sleep(0.01)
        raise AssertionError(f"Not there after {WAIT_S} s; there is: {self.records()}")

    def end(self) -> list[Record]:
        """Close, and all that was said."""
        while self.captures:
            self.captures.pop().close()
        return self.records()


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """This process, to be captured, with its stderr in a file."""
    made = Process(tmp_path)
    with open(made.stderr_path, "w") as stderr:
        monkeypatch.setattr(sys, "__stderr__", stderr)
        yield made
        made.end()


def messages(records: list[Record]) -> list[str]:
    return [record["message"] for record in records]


def one(records: list[Record], logger: str) -> Record:
    (found,) = [record for record in records if record["logger"] == logger]
    return found


def test_ray_users_and_libraries_loggers_are_recorded_with_the_replicas_tags(
    process: Process,
) -> None:
    process.capture()
    for name in ("ray", "ray.serve", "my_model", "library.part"):
        logging.getLogger(name).info("from %s", name)
    records = process.end()
    assert messages(records) == [
        *("from ray", "from ray.serve", "from my_model"),
        "from library.part",
    ]
    for record in records:
        assert {name: record[name] for name in STATIC} == STATIC
        assert (record["kind"], record["level"]) == ("log", "INFO")
        assert record["file"] == "test_capture.py"


def test_a_record_carries_the_request_it_was_said_in(process: Process) -> None:
    process.capture()
    token = request_context.set(RequestContext("r-1", "e", "/e"))
    logging.getLogger("my_model").info("a")
    request_context.reset(token)
    logging.getLogger("my_model").info("b")
    first, second = process.end()
    assert (first["request_id"], first["endpoint"], first["route"]) == ("r-1", "e", "/e")
    assert "request_id" not in second


def test_an_idle_processs_records_are_in_the_file_without_a_flush(process: Process) -> None:
    process.capture()
    logging.getLogger("my_model").info("idle")
    assert messages(process.wait_for(lambda records: bool(records))) == ["idle"]
    deadline = time.monotonic() + WAIT_S
    while not process.stderr_path.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.stderr_path.read_text().endswith(f"-- idle{SUFFIX}\n")


def test_the_copy_on_stderr_is_the_seeds_line(process: Process) -> None:
    process.capture()
    logging.getLogger("ray").info("Some info!")
    logging.getLogger("my_model").warning("two\nlines")
    process.end()
    first, second = process.stderr_path.read_text().splitlines()
    assert first.endswith(f"-- Some info!{SUFFIX}")
    assert first.partition("\t")[2].startswith("INFO test_capture.py:")
    assert second.endswith(f"-- two\\nlines{SUFFIX}")


def test_a_warning_is_on_stderr_at_once_with_what_was_said_before_it(process: Process) -> None:
    process.capture()
    logging.getLogger("my_model").info("before")
    logging.getLogger("my_model").warning("now")
    lines = process.stderr_path.read_text().splitlines()
    assert [line.rpartition(" -- ")[2] for line in lines] == [f"before{SUFFIX}", f"now{SUFFIX}"]


def test_the_copy_may_be_json_and_is_then_the_same_line(process: Process) -> None:
    process.capture(LoggingConfig(encoding="JSON"))
    logging.getLogger("my_model").info("Some info!")
    records = process.end()
    assert json.loads(process.stderr_path.read_text()) == records[0]


def test_without_a_copy_stderr_stays_empty(process: Process) -> None:
    process.capture(LoggingConfig(stderr=False))
    logging.getLogger("my_model").error("Some info!")
    assert messages(process.end()) == ["Some info!"]
    assert process.stderr_path.read_text() == ""


def test_what_is_below_the_level_is_not_written(process: Process) -> None:
    process.capture(LoggingConfig(level="WARNING"), streams=True)
    loud = logging.getLogger("my_model.loud")
    loud.setLevel(logging.DEBUG)
    try:
        for logger in (logging.getLogger("ray"), logging.getLogger("my_model"), loud):
            logger.info("info")
            logger.warning("warning")
        print("printed")
        print("complained", file=sys.stderr)
    finally:
        loud.setLevel(logging.NOTSET)
    assert messages(process.end()) == [*["warning"] * 3, "complained"]


def test_a_new_configuration_holds_from_the_next_record_on(process: Process) -> None:
    capture = process.capture()
    logger = logging.getLogger("my_model")
    logger.debug("too low")
    capture.configure(LoggingConfig(level="DEBUG", stderr=False, extra_fields={"team": "a"}))
    logger.debug("low")
    capture.configure(LoggingConfig(level="ERROR", stderr=False))
    logger.warning("too low again")
    (record,) = process.end()
    assert (record["message"], record["level"], record["team"]) == ("low", "DEBUG", "a")
    assert record["replica"] == "b#abcdef"
    assert process.stderr_path.read_text() == ""


def test_print_and_stderr_are_recorded_and_go_on_to_their_streams(
    process: Process, capsys: pytest.CaptureFixture[str]
) -> None:
    process.capture(streams=True)
    print("count:", 5)
    print("100% wrong", file=sys.stderr)
    print("no newline", end="")
    records = process.end()
    out, err = capsys.readouterr()
    assert (out, err) == ("count: 5\nno newline", "100% wrong\n")
    assert [(r["logger"], r["level"], r["message"]) for r in records] == [
        ("stdout", "INFO", "count: 5"),
        ("stderr", "WARNING", "100% wrong"),
        ("stdout", "INFO", "no newline"),
    ]
    assert not {"file", "line"} & set(records[0])
    assert process.stderr_path.read_text() == ""


def test_an_exception_that_nobody_caught_is_one_record(process: Process) -> None:
    process.capture(streams=True)
    try:
        raise KeyError("gone")
    except KeyError:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    (record,) = process.end()
    assert (record["level"], record["message"]) == ("CRITICAL", "Uncaught exception")
    assert record["exception"].endswith("KeyError: 'gone'")


class EmptyError(Exception):
    """An error that counts as false, and needs to be told something."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("many problems")
        self.problems = problems

    def __len__(self) -> int:
        return len(self.problems)


@pytest.mark.parametrize("error", [KeyError("gone"), EmptyError([])], ids=repr)
def test_a_threads_exception_is_one_record(process: Process, error: Exception) -> None:
    process.capture(streams=True)

    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail, name="loader")
    thread.start()
    thread.join()
    (record,) = process.end()
    assert record["message"] == "Uncaught exception in thread loader"
    assert (record["level"], record["thread"]) == ("ERROR", "loader")
    assert record["exception"].splitlines()[-1].endswith(str(error))


def test_a_thread_that_exits_on_purpose_says_nothing(process: Process) -> None:
    process.capture(streams=True)
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert process.end() == []


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyError("gone"), EmptyError([])], ids=repr)
def test_an_exception_in_a_finaliser_is_one_record(process: Process, error: Exception) -> None:
    process.capture(streams=True)

    class Finalised:
        def __del__(self) -> None:
            raise error

    Finalised()
    gc.collect()
    (record,) = process.end()
    assert record["message"].startswith("Exception ignored in: <function")
    assert record["exception"].splitlines()[-1].endswith(str(error))


def test_afterwards_everything_is_as_it_was(process: Process) -> None:
    def look() -> list[object]:
        found: list[object] = [
            *(sys.stdout, sys.stderr, sys.excepthook, threading.excepthook, sys.unraisablehook),
        ]
        for logger in (logging.getLogger(), logging.getLogger("ray")):
            found += [list(logger.handlers), logger.level, logger.propagate]
        return found

    before = look()
    process.capture(streams=True)
    process.capture(LoggingConfig(level="DEBUG"))
    assert look() != before
    process.end()
    assert look() == before


def test_a_stream_that_user_code_put_in_place_meanwhile_stays(process: Process) -> None:
    original = sys.stdout
    process.capture(streams=True)
    with open(process.stderr_path, "a") as own:
        sys.stdout = own
        try:
            process.end()
            assert sys.stdout is own
        finally:
            sys.stdout = original


def test_loggers_that_user_code_cleared_are_captured_again_once(process: Process) -> None:
    capture = process.capture()
    logging.getLogger().handlers.clear()
    logging.getLogger("ray").handlers.clear()
    logging.getLogger("my_model").info("unheard")
    capture.attach()
    capture.attach()
    logging.getLogger("my_model").info("heard")
    logging.getLogger("ray").info("heard too")
    assert messages(process.end()) == ["heard", "heard too"]


def test_handlers_that_user_code_added_go_on(process: Process) -> None:
    process.capture()
    heard: list[str] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logging.getLogger().addHandler(Own())
    process.captures[0].attach()
    logging.getLogger("my_model").info("m")
    assert heard == ["m"]
    assert messages(process.end()) == ["m"]


def test_at_the_end_they_write_what_they_hold_back_whatever_one_of_them_does(
    process: Process,
) -> None:
    process.capture()
    flushed: list[str] = []

    class Own(logging.NullHandler):
        def flush(self) -> None:
            flushed.append(self.name or "")
            raise OSError("its disk is full")

    for target, name in ((None, "root's"), ("ray", "ray's")):
        handler = Own()
        handler.name = name
        logging.getLogger(target).addHandler(handler)
    logging.getLogger("my_model").info("m")
    assert messages(process.end()) == ["m"]
    assert sorted(flushed) == ["ray's", "root's"]


def test_who_the_process_is_can_be_asked_while_it_is_captured(process: Process) -> None:
    assert read_origin() == {}
    capture = process.capture(LoggingConfig(extra_fields={"team": "search"}))
    assert read_origin() == {**STATIC, "team": "search"}
    assert read_origin() is read_origin()
    capture.configure(LoggingConfig(extra_fields={"team": "maps"}))
    assert read_origin() == {**STATIC, "team": "maps"}
    process.end()
    assert read_origin() == {}


def test_a_record_that_cannot_be_shown_on_stderr_is_in_the_segments(process: Process) -> None:
    process.capture()
    record = logging.LogRecord("my_model", 20, "a.py", 1, "m", None, None)
    record.created = None  # type: ignore[assignment]
    logging.getLogger("my_model").handle(record)
    logging.getLogger("my_model").info("next")
    assert messages(process.end()) == ["m", "next"]


def test_records_are_counted(process: Process) -> None:
    capture = process.capture()
    for number in range(5):
        logging.getLogger("my_model").info("%d", number)
    process.end()
    assert capture.counts == (5, 0)


def test_many_threads_lose_no_record_and_keep_each_in_its_own_line(process: Process) -> None:
    process.capture(LoggingConfig(segment_bytes=4096), streams=True)
    names = ["t0", "t1", "t2", "t3"]

    def talk() -> None:
        for number in range(200):
            logging.getLogger("my_model").info("%d", number)
            print("printed", number)

    threads = [threading.Thread(target=talk, name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = process.end()
    assert len({record["time"] for record in records}) == len(records) == 4 * 400
    for name in names:
        own = [record for record in records if record["thread"] == name]
        said = [message for number in range(200) for message in (f"{number}", f"printed {number}")]
        assert messages(own) == said


SCRIPT = """
import logging, os, sys, threading, warnings
from observability.instrument.capture import install
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.segments import SegmentWriter

config = LoggingConfig()
writer = SegmentWriter(sys.argv[1], "replica_b#abcdef", config.retention)
static = {"component": "serve", "backend": "b", "replica": "b#abcdef", "pid": os.getpid()}
capture = install(writer, static, config, streams=True)
"""


def run(process: Process, code: str) -> subprocess.CompletedProcess[str]:
    """A real process that captures itself and runs the code."""
    script = process.folder.parent / "script.py"
    script.write_text(SCRIPT + code)
    return subprocess.run(
        [sys.executable, str(script), str(process.folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_a_process_that_dies_of_an_exception_leaves_it_and_all_it_said(process: Process) -> None:
    code = """
print("printed")
warnings.warn("odd", UserWarning)
logging.getLogger("ray").info("Some info!")
import atexit
atexit.register(capture.close)
raise KeyError("gone")
"""
    done = run(process, code)
    assert done.returncode == 1
    assert done.stdout == "printed\n"
    assert SUFFIX in done.stderr.splitlines()[0]
    assert "UserWarning: odd" in done.stderr
    assert "    KeyError: 'gone'" in done.stderr.splitlines()
    records = process.records()
    assert [r["logger"] for r in records] == ["stdout", "py.warnings", "ray", "ray.serve"]
    assert records[-1]["exception"].endswith("KeyError: 'gone'")


@pytest.mark.slow
def test_a_forked_process_writes_what_it_says_and_nothing_twice(process: Process) -> None:
    code = """
import time
logger = logging.getLogger("my_model")
time.sleep(0.2)
logger.info("before")
pid = os.fork()
if pid == 0:
    logger.info("child, a word")
    logger.warning("child, a warning")
    os._exit(0)
os.waitpid(pid, 0)
logger.info("parent")
capture.close()
print(pid, os.getpid())
"""
    done = run(process, code)
    child, parent = map(int, done.stdout.split())
    found = {record["message"]: record["pid"] for record in process.records()}
    assert found == {
        **{"before": parent, "parent": parent},
        **{"child, a word": child, "child, a warning": child},
    }
    assert len(process.records()) == len(found)
    told = [line.rpartition(" -- ")[2] for line in done.stderr.splitlines()]
    assert sorted(told) == sorted(f"{message}{SUFFIX}" for message in found)


def test_what_is_said_between_the_polite_end_and_the_kill_is_recorded_at_once(
    process: Process,
) -> None:
    capture = process.capture(streams=True)
    print("half a line", end="")
    logging.getLogger("a").info("before")
    capture.end()
    assert {"before", "half a line"} <= set(messages(process.records()))
    logging.getLogger("a").info("after")
    print("printed after")
    assert {"after", "printed after"} <= set(messages(process.records()))
    assert "after" in process.stderr_path.read_text()
