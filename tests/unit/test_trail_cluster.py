"""The segments of several nodes as one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from observability.trail import segments
from observability.trail.cluster import Cluster
from observability.trail.query import Query, Record
from observability.trail.segments import SegmentFolder
from tests.unit.test_trail_segments import NAME, make, put, to_line


class OtherNode:
    """Another node with some records, which streams one in a far future and then fails."""

    def __init__(self, *records: Record) -> None:
        self.address = "10.0.0.2"
        self.records = records
        self.problems = ["Node 10.0.0.2 could not be read"]
        self.skipped = 2

    def read(self, query: Query) -> Iterator[Record]:
        return iter(self.records)

    def list_segments(self) -> list[str]:
        return ["serve/x.000001.log"]

    def stream(self, name: str, *, is_new: bool) -> Iterator[bytes]:
        yield to_line({"time": "2099-01-01T00:00:00.000000000Z", "message": "streamed"})
        raise OSError("gone")


def messages(records: list[Record]) -> list[str]:
    return [record["message"] for record in records]


def test_the_nodes_are_read_as_one_and_the_last_ones_alone(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", make(1), make(3), make(5))
    cluster = Cluster(SegmentFolder(tmp_path), [OtherNode(make(2), make(4))])

    assert messages(list(cluster.read(Query()))) == ["m1", "m2", "m3", "m4", "m5"]
    assert messages(list(cluster.read_last(Query(), 2))) == ["m4", "m5"]
    assert messages(list(cluster.read_last(Query(), 9))) == ["m1", "m2", "m3", "m4", "m5"]
    assert cluster.describe() == str(tmp_path)


def test_what_could_not_be_read_anywhere_is_told(tmp_path: Path) -> None:
    put(tmp_path, f"{NAME}.000001.log", b"half a li\n")
    cluster = Cluster(SegmentFolder(tmp_path), [OtherNode()])
    list(cluster.read(Query()))

    assert cluster.problems() == [
        "Node 10.0.0.2 could not be read",
        "3 lines are no records and were left out (half-written ones, say).",
    ]


def test_without_problems_there_are_none(tmp_path: Path) -> None:
    assert Cluster(SegmentFolder(tmp_path)).problems() == []


def test_following_tells_what_is_written_here_and_there_and_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "POLL_S", 0.01)
    path = put(tmp_path, f"{NAME}.000001.log", make(1))
    shown: list[str] = []
    problems: list[str] = []
    cluster = Cluster(SegmentFolder(tmp_path), [OtherNode()])
    for look, fresh in enumerate(cluster.follow(Query())):
        if look == 0:
            put(tmp_path, path.name, make(2))
        assert look < 2_000
        shown += messages(fresh.records)
        problems += fresh.problems
        if len(shown) >= 2 and problems:
            break
    assert sorted(shown) == ["m2", "streamed"]
    assert problems == ["serve/x.000001.log of node 10.0.0.2 is not followed any more: gone"]
