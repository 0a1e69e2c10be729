"""Reading the segments of a folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from observability.trail import segments
from observability.trail.query import Query, Record
from observability.trail.segments import REORDER, SegmentFolder, in_order, parse_lines

WAIT_S = 20.0
NAME = "replica_b#abcdef"


def time_at(number: int) -> str:
    """A time as records have it; the larger the number, the later."""
    return f"2026-11-23T02:{number // 60 % 60:02d}:{number % 60:02d}.{number:09d}Z"


def make(number: int, **fields: Any) -> Record:
    return {"time": time_at(number), "message": f"m{number}", **fields}


def to_line(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def put(folder: Path, name: str, *records: Record | bytes) -> Path:
    """Append records, or any bytes, to a file."""
    path = folder / name
    with path.open("ab") as file:
        for record in records:
            file.write(record if isinstance(record, bytes) else to_line(record))
    return path


def read(folder: Path, query: Query | None = None) -> tuple[list[str], int]:
    """(messages in their order, lines that could not be read)."""
    source = SegmentFolder(folder)
    found = [str(record.get("message")) for record in source.read(query or Query())]
    return found, source.skipped


def test_records_of_all_files_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(1), make(4))
    put(tmp_path, f"{NAME}.000002.log", make(6))
    put(tmp_path, "ingress_10.0.0.1.000001.log", make(2), make(3), make(7))
    put(tmp_path, "controller.000001.log", make(5))
    assert read(tmp_path) == ([f"m{number}" for number in range(1, 8)], 0)


def test_two_processes_of_one_name_are_read_in_the_order_of_time_too(tmp_path: Path) -> None:
    put(tmp_path, "controller.000001.log", *(make(2 * number) for number in range(2 * REORDER)))
    put(tmp_path, "controller.000002.log", *(make(2 * number + 1) for number in range(2 * REORDER)))
    assert read(tmp_path)[0] == [f"m{number}" for number in range(4 * REORDER)]


def test_threads_that_wrote_a_little_out_of_order_are_put_right(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(2), make(1), make(4), make(3))
    assert read(tmp_path)[0] == ["m1", "m2", "m3", "m4"]


@given(st.permutations(range(40)))
def test_nearly_ordered_records_are_put_in_order_and_none_is_lost(order: list[int]) -> None:
    found = [record["time"] for record in in_order(make(number) for number in order)]
    assert found == [time_at(number) for number in range(40)]


def test_records_of_one_time_keep_their_order() -> None:
    records = [{"time": "t", "message": str(number)} for number in range(10)]
    assert [record["message"] for record in in_order(records)] == list("0123456789")


def test_a_folder_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert read(tmp_path / "gone") == ([], 0)
    (tmp_path / "file").write_text("")
    assert read(tmp_path / "file") == ([], 0)


def test_an_empty_segment_has_no_records(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log")
    assert read(tmp_path) == ([], 0)
    assert read(tmp_path, Query(text="a")) == ([], 0)


def test_files_that_are_no_segments_are_not_read(tmp_path: Path) -> None:
    for name in ("worker-1.err", f"{NAME}.log", f"{NAME}.000001.log.gz", ".prune.lock"):
        put(tmp_path, name, make(1))
    (tmp_path / "old").mkdir()
    assert read(tmp_path) == ([], 0)


def test_half_a_line_at_the_end_is_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(1), to_line(make(2))[:20])
    put(tmp_path, f"{NAME}.000002.log", make(3), to_line(make(4)).rstrip())
    assert read(tmp_path) == (["m1", "m3", "m4"], 1)
    assert read(tmp_path, Query(text="m4")) == (["m4"], 0)


RUBBISH = [
    b"no JSON\n",
    b"\n",
    b"[]\n",
    b'"text"\n',
    b"null\n",
    b'{"message":"m5"\n',
    b'{"message":"\xff\xfe"}\n',
    b'{"message":"\\ud800"}\n',
    b'{"message":1e999}\n',
    b'{"message":' + b"[" * 100_000 + b"\n",
    b"\x00" * 4096 + b"\n",
    b"\xef\xbb\xbf{}\n",
    b'{"message":"m1"}{"message":"m2"}\n',
    b'{"a":1}\r{"a":1}\x00\n',
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda line: repr(line[:20]))
def test_a_line_that_is_no_record_is_left_out_and_the_others_are_read(
    tmp_path: Path, rubbish: bytes
) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(1), rubbish, make(2))
    found, skipped = read(tmp_path)
    assert ("m1" in found, "m2" in found, len(found) <= 3, skipped >= 1) == (*[True] * 3, True)
    assert read(tmp_path, Query(text="m2"))[0] == ["m2"]


@given(st.lists(st.binary(max_size=30)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_are_survived(tmp_path: Path, parts: list[bytes]) -> None:
    (tmp_path / f"{NAME}.000001.log").write_bytes(b"\n".join(parts))
    assert isinstance(read(tmp_path)[0], list)
    assert isinstance(read(tmp_path, Query(text="a", level="ERROR"))[0], list)
    assert list(parse_lines(parts, Query(request_id="x"))) is not None


def test_a_foreign_record_with_an_odd_time_or_none_is_read_too(tmp_path: Path) -> None:
    odd = [{"message": "timeless"}, {"time": 5, "message": "five"}, {"time": None, "message": ""}]
    put(tmp_path, f"{NAME}.000001.log", make(1), *odd)
    assert sorted(read(tmp_path)[0]) == ["", "five", "m1", "timeless"]
    assert read(tmp_path, Query(since=time_at(1)))[1] == 0


fields = st.fixed_dictionaries(
    {
        "backend": st.sampled_from(["b", "other", 'b"\\ä']),
        "request_id": st.sampled_from(["r-1", "r-2", ""]),
        "level": st.sampled_from(["INFO", "ERROR"]),
        "message": st.text(max_size=5),
    }
)
queries = st.builds(
    Query,
    backend=st.sampled_from(["", "b", 'b"\\ä']),
    request_id=st.sampled_from(["", "r-1"]),
    level=st.sampled_from(["", "ERROR"]),
    text=st.text(max_size=2),
)


@given(st.lists(st.lists(fields, max_size=6), max_size=4), queries, st.integers(16, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_search_by_bytes_finds_what_reading_everything_would(
    tmp_path: Path, files: list[list[Record]], query: Query, chunk: int
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    every: list[Record] = []
    for number, records in enumerate(files):
        timed = [{"time": time_at(len(every) + at), **r} for at, r in enumerate(records)]
        put(tmp_path, f"{NAME}.{number:06d}.log", *timed)
        every += timed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHUNK_BYTES", chunk)
        found = list(SegmentFolder(tmp_path).read(query))
    assert found == [record for record in every if query.matches(record)]


def test_a_line_longer_than_what_is_read_at_once_is_found_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CHUNK_BYTES", 64)
    put(tmp_path, f"{NAME}.000001.log", make(1), make(2, extra="x" * 5000 + "needle"), make(3))
    assert read(tmp_path) == (["m1", "m2", "m3"], 0)
    assert read(tmp_path, Query(text="needle")) == (["m2"], 0)


def test_more_segments_than_a_process_may_open_are_read(tmp_path: Path) -> None:
    for number in range(120):
        put(tmp_path, f"replica_b#{number}.000001.log", make(number), make(number + 120))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, in_use + 20), hard))
    try:
        everything, wanted = read(tmp_path)[0], read(tmp_path, Query(text="m7"))[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert everything == [f"m{number}" for number in range(240)]
    assert wanted == ["m7", *(f"m7{digit}" for digit in range(10))]


def test_a_segment_deleted_while_it_is_read_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CHUNK_BYTES", 64)
    monkeypatch.setattr(segments, "REORDER", 0)
    put(tmp_path, f"{NAME}.000001.log", *(make(number) for number in range(50)))
    records = SegmentFolder(tmp_path).read(Query())
    assert next(records)["message"] == "m0"
    (tmp_path / f"{NAME}.000001.log").unlink()
    assert len(list(records)) < 10


def test_old_segments_are_passed_over_when_a_time_is_given(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 23, 2, 0, 10, tzinfo=timezone.utc).timestamp()
    for name, seconds in (("old", -60), ("new", 60)):
        path = put(tmp_path, f"{name}.000001.log", make(20, message=name))
        os.utime(path, (moment + seconds,) * 2)
    assert read(tmp_path, Query(since=time_at(10)))[0] == ["new"]


def test_a_record_is_found_although_its_files_time_lags_behind(tmp_path: Path) -> None:
    record = make(10, message="just now")
    path = put(tmp_path, f"{NAME}.000001.log", record)
    moment = datetime(2026, 11, 23, 2, 0, 10, tzinfo=timezone.utc).timestamp()
    os.utime(path, (moment - 0.009,) * 2)  # the kernel's clock for files ticks every 4 or 10 ms
    assert read(tmp_path, Query(since=record["time"]))[0] == ["just now"]


class Follower:
    """Follows a folder in a thread."""

    def __init__(self, folder: Path, query: Query | None = None) -> None:
        self.found: list[str] = []
        self.source = SegmentFolder(folder)
        self._is_over = threading.Event()
        self._looks = 0
        self._records = self.source.follow(query or Query(), self._is_over.is_set)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        self.wait_for(lambda: self._looks > 0)
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < deadline, f"Not so after {WAIT_S} s; found {self.found}"
            time.sleep(0.01)

    def look_again(self) -> None:
        looks = self._looks
        self.wait_for(lambda: self._looks >= looks + 2)

    def _run(self) -> None:
        for record in self._records:
            if record is None:
                self._looks += 1
            else:
                self.found.append(str(record.get("message")))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(segments, "POLL_S", 0.01)
    yield


def test_following_tells_what_is_written_from_now_on(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(1))
    with Follower(tmp_path) as follower:
        put(tmp_path, f"{NAME}.000001.log", make(2))
        put(tmp_path, "replica_new#abcdef.000001.log", make(3))
        follower.wait_for(lambda: sorted(follower.found) == ["m2", "m3"])


def test_following_waits_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    with Follower(tmp_path / "serve") as follower:
        (tmp_path / "serve").mkdir()
        put(tmp_path / "serve", f"{NAME}.000001.log", make(1))
        follower.wait_for(lambda: follower.found == ["m1"])


def test_following_waits_for_the_rest_of_half_a_line(tmp_path: Path) -> None:
    with Follower(tmp_path) as follower:
        line = to_line(make(1))
        put(tmp_path, f"{NAME}.000001.log", line[:15])
        follower.look_again()
        assert follower.found == []
        put(tmp_path, f"{NAME}.000001.log", line[15:])
        follower.wait_for(lambda: follower.found == ["m1"])
        assert follower.source.skipped == 0


def test_following_goes_through_rubbish_and_deleted_segments(tmp_path: Path) -> None:
    path = put(tmp_path, f"{NAME}.000001.log", make(1))
    with Follower(tmp_path, Query(level="ERROR")) as follower:
        put(tmp_path, f"{NAME}.000001.log", *RUBBISH, make(2), make(3, level="ERROR"))
        follower.wait_for(lambda: follower.found == ["m3"])
        assert follower.source.skipped >= len(RUBBISH)
        path.unlink()
        put(tmp_path, f"{NAME}.000002.log", make(4, level="CRITICAL"))
        follower.wait_for(lambda: follower.found == ["m3", "m4"])


def test_following_a_real_writer_loses_nothing_across_its_segments(tmp_path: Path) -> None:
    writer = SegmentWriter(str(tmp_path), NAME, Retention(segment_bytes=500))
    with Follower(tmp_path) as follower:
        writer.start()
        for number in range(300):
            writer.append(to_line(make(number)))
            if number % 10 == 0:
                writer.flush()
        writer.close()
        follower.wait_for(lambda: len(follower.found) == 300)
    assert sorted(follower.found) == sorted(f"m{number}" for number in range(300))
    assert follower.source.skipped == 0
    assert len(list(tmp_path.glob("*.log"))) > 5
    assert read(tmp_path) == ([f"m{number}" for number in range(300)], 0)
