"""Segments: nothing is lost, and they never fill a disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from observability.fields import SEGMENT_PATTERN
from observability.instrument import segments
from observability.instrument.encode import encode_tail
from observability.instrument.gap import Gap, encode_gap
from observability.instrument.pruning import prune
from observability.instrument.retention import Retention, Share
from observability.instrument.segments import SegmentWriter, safe_name
from observability.instrument.supervision import process_troubles

WAIT_S = 20.0
DAY_S = 24 * 3600.0


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"Not so after {WAIT_S} s."
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    """Names of the segments, in their order."""
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".log")


def content(folder: Path) -> bytes:
    """All that is in the segments."""
    return b"".join((folder / name).read_bytes() for name in names(folder))


@contextlib.contextmanager
def writing(
    folder: Path, retention: Retention | None = None, name: str = "replica_b#abcdef"
) -> Iterator[SegmentWriter]:
    """A writer without its timer."""
    writer = SegmentWriter(str(folder), name, retention or Retention())
    try:
        yield writer
    finally:
        writer.close()


def make_segment(folder: Path, name: str, size: int = 10, age_s: float = 0.0) -> Path:
    """A segment that nobody writes to."""
    path = folder / name
    path.write_bytes(b"x" * (size - 1) + b"\n")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Files of this process can't grow beyond this many bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_lines_are_in_the_file_after_a_flush(tmp_path: Path) -> None:
    with writing(tmp_path / "logs" / "serve") as writer:
        writer.append(b"a\n")
        writer.append(b"b\n")
        writer.flush()
        assert names(tmp_path / "logs" / "serve") == ["replica_b#abcdef.000001.log"]
        assert content(tmp_path / "logs" / "serve") == b"a\nb\n"
        assert (writer.written, writer.dropped) == (2, 0)


def test_nothing_to_write_makes_no_file(tmp_path: Path) -> None:
    with writing(tmp_path / "serve") as writer:
        writer.flush()
    assert list(tmp_path.iterdir()) == []


def test_what_waits_is_written_when_the_writer_is_closed(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.append(b"a\n")
    assert content(tmp_path) == b"a\n"


def test_what_waits_is_written_by_the_timer_and_by_what_joined_it(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        is_flushed = threading.Event()
        writer.also_flush = is_flushed.set
        writer.start()
        writer.append(b"a\n")
        wait_until(lambda: names(tmp_path) and content(tmp_path) == b"a\n")
        assert is_flushed.wait(WAIT_S)


def test_a_timer_that_failed_once_goes_on(tmp_path: Path) -> None:
    has_failed = threading.Event()

    def fail_once() -> None:
        if not has_failed.is_set():
            has_failed.set()
            raise ZeroDivisionError("unforeseen")

    with writing(tmp_path) as writer:
        writer.also_flush = fail_once
        writer.start()
        assert has_failed.wait(WAIT_S)
        writer.append(b"a\n")
        wait_until(lambda: names(tmp_path) and content(tmp_path) == b"a\n")
    assert "unforeseen" in process_troubles.describe()
    process_troubles.clear(segments.WRITING)


def test_a_full_segment_is_followed_by_the_next_and_never_touched_again(tmp_path: Path) -> None:
    with writing(tmp_path, Retention(segment_bytes=10)) as writer:
        for number in range(6):
            writer.append(b"line %d\n" % number)
            writer.flush()
    assert names(tmp_path) == [f"replica_b#abcdef.00000{number}.log" for number in (1, 2, 3)]
    assert [(tmp_path / name).stat().st_size for name in names(tmp_path)] == [14, 14, 14]
    assert content(tmp_path).split() == [b"line", *b"0 line 1 line 2 line 3 line 4 line 5".split()]


def test_a_limit_that_is_changed_holds_from_the_next_line_on(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for line in (b"a\n", b"b\n", b"c\n"):
            writer.append(line)
            writer.flush()
            writer.retention = Retention(segment_bytes=1)
    assert len(names(tmp_path)) == 3


lines = st.integers(0, 60).map(lambda size: b"x" * size + b"\n")


@given(
    st.lists(st.lists(lines, max_size=5), max_size=12),
    st.integers(1, 200),
)
@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_line_is_lost_torn_or_moved_across_segments_and_only_the_last_is_not_full(
    tmp_path: Path, batches: list[list[bytes]], segment_bytes: int
) -> None:
    folder = tmp_path / str(time.monotonic_ns())
    numbered = iter(range(10**6))
    expected = []
    with writing(folder, Retention(segment_bytes=segment_bytes)) as writer:
        for batch in batches:
            for line in batch:
                expected.append(b"%d %s" % (next(numbered), line))
                writer.append(expected[-1])
            writer.flush()
    if not expected:
        assert not folder.exists()
        return
    assert content(folder) == b"".join(expected)
    assert writer.written == len(expected)
    files = [(folder / name).read_bytes() for name in names(folder)]
    assert all(data.endswith(b"\n") for data in files)
    assert all(len(data) >= segment_bytes for data in files[:-1])
    largest = max(sum(map(len, batch)) + 8 * len(batch) for batch in batches)
    assert all(len(data) < segment_bytes + largest for data in files)


def test_threads_that_append_and_flush_at_once_lose_nothing(tmp_path: Path) -> None:
    def append(number: int) -> None:
        for count in range(500):
            writer.append(b'{"from":%d,"count":%d}\n' % (number, count))
            if count % 7 == number:
                writer.flush()

    with writing(tmp_path, Retention(segment_bytes=2000)) as writer:
        writer.start()
        threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [json.loads(line) for line in content(tmp_path).splitlines()]
    assert writer.written == len(found) == 2000
    for number in range(4):
        assert [r["count"] for r in found if r["from"] == number] == list(range(500))


def test_a_process_started_anew_goes_on_with_the_next_number(tmp_path: Path) -> None:
    make_segment(tmp_path, "replica_b#abcdef.000041.log")
    make_segment(tmp_path, "replica_b#other.000099.log")
    with writing(tmp_path) as writer:
        writer.append(b"a\n")
        writer.flush()
        assert names(tmp_path)[1] == "replica_b#abcdef.000042.log"


def test_two_processes_of_one_name_never_write_to_the_same_segment(tmp_path: Path) -> None:
    with writing(tmp_path) as old, writing(tmp_path) as new:
        for writer in (old, new):
            writer.append(b"a\n")
            writer.flush()
        for writer in (old, new):
            writer.append(b"b\n")
            writer.flush()
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"a\nb\n"] * 2


def test_numbers_beyond_a_million_go_on(tmp_path: Path) -> None:
    make_segment(tmp_path, "replica_b#abcdef.999999.log")
    with writing(tmp_path) as writer:
        writer.append(b"a\n")
    assert (tmp_path / "replica_b#abcdef.1000000.log").read_bytes() == b"a\n"


@given(st.text())
def test_any_tag_is_a_file_name_that_readers_find(tag: str) -> None:
    name = safe_name(f"replica_{tag}")
    match = re.fullmatch(SEGMENT_PATTERN, f"{name}.000001.log")
    assert match is not None
    assert match["name"] == name
    assert len(name) <= 100
    assert not {"/", "\0", "\n"} & set(name)


def test_a_long_backend_name_keeps_its_replicas_letters() -> None:
    assert safe_name(f"replica_{'x' * 300}#jZlnUI").endswith("#jZlnUI")


def test_what_a_full_disk_does_not_take_is_counted_and_what_comes_later_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "stderr", "w") as stderr, writing(tmp_path) as writer:
        monkeypatch.setattr(sys, "__stderr__", stderr)  # on the same disk
        writer.append(b'{"n":1}\n')
        writer.flush()
        with full_disk(limit=12):
            writer.append(b'{"n":2}\n')
            writer.flush()
            writer.append(b'{"n":3}\n')
            writer.flush()
        writer.append(b'{"n":4}\n')
        writer.flush()
    assert content(tmp_path).splitlines() == [b'{"n":1}', b'{"n"', b'{"n":4}']
    assert (writer.written, writer.dropped) == (2, 2)
    assert len(names(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    with open(tmp_path / "stderr", "w") as stderr:
        monkeypatch.setattr(sys, "__stderr__", stderr)
        with writing(tmp_path / "file") as writer:
            for _ in range(3):
                writer.append(b"a\n")
                writer.flush()
    text = (tmp_path / "stderr").read_text()
    assert text.count("Records can't be written to") == 1
    assert "Free space, or lower LoggingConfig.max_total_bytes." in text
    assert (writer.written, writer.dropped) == (0, 3)


def test_lines_wait_without_end_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "BUFFER_LINES", 3)
    with writing(tmp_path) as writer:
        for number in range(5):
            writer.append(b"%d\n" % number)
    assert content(tmp_path) == b"0\n1\n2\n"
    assert (writer.written, writer.dropped) == (3, 2)


def test_a_segment_that_somebody_removed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "PRUNE_S", 0.0)
    with writing(tmp_path) as writer:
        writer.start()
        writer.append(b"a\n")
        wait_until(lambda: names(tmp_path))
        (tmp_path / names(tmp_path)[0]).unlink()
        wait_until(lambda: names(tmp_path))
        writer.append(b"b\n")
        wait_until(lambda: content(tmp_path) == b"b\n")


def test_segments_go_when_they_are_too_old(tmp_path: Path) -> None:
    make_segment(tmp_path, "a.000001.log", age_s=3 * DAY_S)
    make_segment(tmp_path, "a.000002.log", age_s=1 * DAY_S)
    make_segment(tmp_path, "b.000001.log", age_s=2.5 * DAY_S)
    deleted = prune(str(tmp_path), Retention(max_age_s=2 * DAY_S), time.time())
    assert deleted == ["a.000001.log", "b.000001.log"]
    assert names(tmp_path) == ["a.000002.log"]


def test_the_oldest_segments_go_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    for number, age_s in ((1, 10.0), (2, 40.0), (3, 20.0), (4, 30.0)):
        make_segment(tmp_path, f"a.00000{number}.log", size=100, age_s=age_s)
    deleted = prune(str(tmp_path), Retention(max_total_bytes=250), time.time())
    assert deleted == ["a.000002.log", "a.000004.log"]
    assert names(tmp_path) == ["a.000001.log", "a.000003.log"]


def test_files_that_are_no_segments_are_left_alone(tmp_path: Path) -> None:
    others = ["worker.log", "a.log", "a.1.log", "a.000001.log.gz", "000001.log", "a.000001.log~"]
    for name in others:
        make_segment(tmp_path, name, age_s=9 * DAY_S)
    (tmp_path / "a.folder").mkdir()
    assert prune(str(tmp_path), Retention(max_age_s=1, max_total_bytes=1), time.time()) == []
    assert {path.name for path in tmp_path.iterdir()} >= {*others, "a.folder"}


def test_a_segment_that_is_written_to_stays_however_old_and_large(tmp_path: Path) -> None:
    nothing = Retention(max_age_s=0.001, max_total_bytes=0)
    with writing(tmp_path, Retention(segment_bytes=4)) as writer:
        for number in range(3):
            writer.append(b"%04d\n" % number)
            writer.flush()
        prune(str(tmp_path), nothing, time.time() + DAY_S)
        assert content(tmp_path) == b"0002\n"
    prune(str(tmp_path), nothing, time.time() + DAY_S)
    assert names(tmp_path) == []


@pytest.mark.slow
def test_one_process_at_a_time_makes_room(tmp_path: Path) -> None:
    make_segment(tmp_path, "a.000001.log", age_s=9 * DAY_S)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'w')\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()",
            str(tmp_path / ".prune.lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert prune(str(tmp_path), Retention(), time.time()) == []
    assert prune(str(tmp_path), Retention(), time.time()) == ["a.000001.log"]


@pytest.mark.slow
def test_the_segment_of_a_killed_process_is_free_to_go(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from observability.instrument.segments import SegmentWriter\n"
        "from observability.instrument.retention import Retention\n"
        "writer = SegmentWriter(sys.argv[1], 'replica_b#abcdef', Retention())\n"
        "writer.append(b'a\\n')\n"
        "writer.flush()\n"
        "print('written', flush=True)\n"
        "sys.stdin.read()\n"
    )
    everything = Retention(max_total_bytes=0)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert prune(str(tmp_path), everything, time.time()) == []
        process.kill()
    assert content(tmp_path) == b"a\n"
    assert prune(str(tmp_path), everything, time.time()) == ["replica_b#abcdef.000001.log"]


def test_whoever_makes_room_meanwhile_takes_no_line_that_was_just_written(tmp_path: Path) -> None:
    is_over = threading.Event()

    def make_room() -> None:
        while not is_over.is_set():
            prune(str(tmp_path), Retention(max_total_bytes=0), time.time())

    thread = threading.Thread(target=make_room)
    with writing(tmp_path, Retention(segment_bytes=1)) as writer:
        thread.start()
        try:
            for number in range(300):
                writer.append(b"%d\n" % number)
                writer.flush()
                last = max(names(tmp_path))
                assert (tmp_path / last).read_bytes() == b"%d\n" % number
        finally:
            is_over.set()
            thread.join()


def test_a_writer_makes_room_by_itself(tmp_path: Path) -> None:
    make_segment(tmp_path, "replica_gone#abcdef.000001.log", age_s=9 * DAY_S)
    with writing(tmp_path, Retention(max_age_s=DAY_S)) as writer:
        writer.start()
        wait_until(lambda: names(tmp_path) == [])


# Whose limits hold for whose segments.

MEAN = Share(max_age_s=1.0, max_total_bytes=0)


def test_a_share_prunes_the_replicas_of_its_backend_and_nobody_elses(tmp_path: Path) -> None:
    for name in ("replica_b#aaaaaa", "replica_b#bbbbbb", "replica_bb#cccccc", "ingress_10.0.0.1"):
        make_segment(tmp_path, f"{name}.000001.log", age_s=60.0)
    deleted = prune(str(tmp_path), Retention(share=MEAN), time.time(), "replica_b#aaaaaa")
    assert deleted == ["replica_b#aaaaaa.000001.log", "replica_b#bbbbbb.000001.log"]
    assert names(tmp_path) == ["ingress_10.0.0.1.000001.log", "replica_bb#cccccc.000001.log"]


@pytest.mark.parametrize(
    ("share", "left"), [(Share(45.0, 10_000), [1, 2, 3]), (Share(DAY_S, 250), [1, 2])]
)
def test_the_age_and_the_size_of_a_share_are_those_of_its_own_segments(
    tmp_path: Path, share: Share, left: list[int]
) -> None:
    make_segment(tmp_path, "other.000001.log", size=5000, age_s=80.0)
    for number, age_s in ((1, 10.0), (2, 20.0), (3, 40.0), (4, 60.0)):
        make_segment(tmp_path, f"own.00000{number}.log", size=100, age_s=age_s)
    prune(str(tmp_path), Retention(share=share), time.time(), "own")
    assert names(tmp_path) == ["other.000001.log", *(f"own.00000{n}.log" for n in left)]


def test_what_somebody_writes_is_pruned_by_its_own_age_and_not_by_others(tmp_path: Path) -> None:
    kept = Retention(share=Share(9 * DAY_S, 10_000))
    with writing(tmp_path, kept, "replica_b#abcdef") as writer:
        writer.append(b"a\n")
        writer.flush()
        make_segment(tmp_path, "replica_b#zzzzzz.000001.log", age_s=5 * DAY_S)
        assert prune(str(tmp_path), Retention(max_age_s=DAY_S), time.time(), "ingress_n") == []
        assert prune(str(tmp_path), kept, time.time(), "replica_b#abcdef") == []
    # Nobody writes there any more: as long as the instance says.
    deleted = prune(str(tmp_path), Retention(max_age_s=DAY_S), time.time(), "ingress_n")
    assert deleted == ["replica_b#zzzzzz.000001.log"]


def test_the_total_of_the_folder_is_one_for_all_whatever_shares_there_are(tmp_path: Path) -> None:
    for number, (name, age_s) in enumerate((("a", 10.0), ("b", 40.0), ("c", 20.0)), 1):
        make_segment(tmp_path, f"{name}.00000{number}.log", size=100, age_s=age_s)
    share = Share(DAY_S, 10_000)
    deleted = prune(str(tmp_path), Retention(max_total_bytes=250, share=share), time.time(), "a")
    assert deleted == ["b.000002.log"]


def test_a_writer_with_a_share_makes_room_in_its_own_stem_only(tmp_path: Path) -> None:
    make_segment(tmp_path, "replica_a#abcdef.000001.log", age_s=60.0)
    make_segment(tmp_path, "replica_b#zzzzzz.000001.log", age_s=60.0)
    with writing(tmp_path, Retention(share=MEAN), "replica_b#abcdef") as writer:
        writer.start()
        wait_until(lambda: names(tmp_path) == ["replica_a#abcdef.000001.log"])


def test_before_its_end_a_process_writes_each_line_at_once(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.append(b"a\n")
        writer.write_through()
        assert content(tmp_path) == b"a\n"
        writer.append(b"b\n")
        assert content(tmp_path) == b"a\nb\n"


def encode(gap: Gap) -> bytes:
    return b"%d dropped\n" % gap.records


def test_what_a_full_disk_did_not_take_is_told_once_there_is_room(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.encode_gap = encode
        with full_disk(0):
            for _ in range(2):
                writer.append(b"lost\n")
                writer.flush()
            writer.tell_gap()
            assert writer.gap is not None
            assert (writer.gap.records, "large" in writer.gap.why) == (2, True)
        writer.append(b"a\n")
        writer.flush()
        writer.tell_gap()
        assert writer.gap is None
        assert content(tmp_path) == b"a\n2 dropped\n"


def test_what_was_dropped_is_told_by_the_timer_and_at_the_end(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.encode_gap = encode
        with full_disk(0):
            writer.append(b"lost\n")
            writer.flush()
        writer.start()
        wait_until(lambda: content(tmp_path) == b"1 dropped\n")
        with full_disk(10):
            writer.append(b"lost\n")
            writer.flush()
    assert content(tmp_path).endswith(b"1 dropped\n")


def test_the_record_of_a_gap_says_how_many_since_when_and_why() -> None:
    gap = Gap.begin(1, "[Errno 28] No space left on device").grow(2)
    line = json.loads(encode_gap(gap, encode_tail({"replica": "b#abcdef"})))
    assert line["message"] == (
        f"3 records could not be written and are lost, the first at {gap.since}: [Errno 28] No "
        "space left on device"
    )
    assert (line["dropped"], line["dropped_since"]) == (3, gap.since)
    assert gap.since < line["time"]


def test_a_flush_waits_for_what_another_thread_has_taken_and_not_yet_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_taken, may_write, is_flushed = (threading.Event() for _ in range(3))
    write, seen = os.write, list[bytes]()

    def write_late(fd: int, data: bytes) -> int:
        is_taken.set()
        assert may_write.wait(WAIT_S)
        return write(fd, data)

    def flush_and_look() -> None:
        writer.flush()
        seen.append(content(tmp_path))
        is_flushed.set()

    with writing(tmp_path) as writer:
        writer.append(b"a\n")
        monkeypatch.setattr(segments.os, "write", write_late)
        timer = threading.Thread(target=writer.flush)
        timer.start()
        assert is_taken.wait(WAIT_S)
        answering = threading.Thread(target=flush_and_look)
        answering.start()
        is_flushed.wait(0.2)  # long enough for one that does not wait
        may_write.set()
        for thread in (timer, answering):
            thread.join(WAIT_S)
    assert seen == [b"a\n"]
