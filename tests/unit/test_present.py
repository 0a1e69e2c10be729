"""What a replica has under way of one request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from observability.fields import NAMES, UNDER_WAY
from observability.instrument.context import RequestContext, join_contexts
from observability.instrument.gap import Gap
from observability.instrument.retention import Retention
from observability.instrument.segments import SegmentWriter
from serve.replica.present import describe_present
from serve.replica.trail import MOST_MATES
from serve.replica.visit import Visit, under_way

STATIC = {"component": "serve", "backend": "b", "replica": "b#abcdef", "node": "n", "pid": 7}


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    under_way.clear()


@pytest.fixture
def writer(tmp_path: Path) -> SegmentWriter:
    return SegmentWriter(str(tmp_path), "replica_b#abcdef", Retention())


def visit(request_id: str, batch_ids: tuple[str, ...] = ()) -> Visit:
    context = RequestContext(request_id, "e", "/e", batch_ids=batch_ids)
    return Visit(lambda _: None, context, "http", "GET", "/e")


def test_a_step_under_way_is_an_access_record_without_a_status(writer: SegmentWriter) -> None:
    visit("r-1").begin()
    (record,) = describe_present("r-1", STATIC, writer)
    assert set(record) - {"stage"} <= NAMES
    assert "status" not in record
    assert record["kind"] == UNDER_WAY
    assert (record["stage"], record["path"], record["pid"]) == ("run", "/e", 7)


def test_another_request_is_not_told_of_nor_one_that_ended(writer: SegmentWriter) -> None:
    visit("other")
    visit("r-1").end()
    assert describe_present("r-1", STATIC, writer) == []


def test_what_a_batch_called_is_told_for_each_of_its_requests(writer: SegmentWriter) -> None:
    visit("made-up", ("r-1", "r-2")).begin()
    for request_id in ("r-1", "r-2"):
        (record,) = describe_present(request_id, STATIC, writer)
        assert record["batch_ids"] == ["r-1", "r-2"] or record["batch_ids"] == ("r-1", "r-2")


def test_a_request_in_a_batch_names_its_mates(writer: SegmentWriter) -> None:
    visits = [visit("r-1"), visit("r-2")]
    joined = join_contexts([each.context for each in visits])
    assert joined is not None
    joined.refer()
    (record,) = describe_present("r-1", STATIC, writer)
    assert list(record["batch_mates"]) == ["r-2"]
    assert record["batch_span_id"] == joined.span_id


def test_it_names_no_more_of_its_mates_than_the_record_at_its_end(writer: SegmentWriter) -> None:
    visits = [visit(f"r-{n}") for n in range(MOST_MATES + 5)]
    joined = join_contexts([each.context for each in visits])
    assert joined is not None
    joined.refer()
    (record,) = describe_present("r-0", STATIC, writer)
    assert list(record["batch_mates"]) == [f"r-{n}" for n in range(1, MOST_MATES + 1)]


def test_what_could_not_be_written_yet_is_told(writer: SegmentWriter) -> None:
    writer.gap = Gap.begin(3, "full")
    (record,) = describe_present("r-1", STATIC, writer)
    assert (record["dropped"], record["replica"]) == (3, "b#abcdef")
    assert set(record) <= NAMES
