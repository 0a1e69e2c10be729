"""One request as a tree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.trail.query import Record
from observability.trail.step import State, Step, to_epoch
from observability.trail.tree import assemble, slow_steps

BEGIN_S = to_epoch({"time": "2026-11-23T02:00:00.000000000Z"})


def time_at(ms: float) -> str:
    """A record's time, so many milliseconds after the tests' beginning."""
    nanoseconds = round(ms * 1_000_000)
    return f"2026-11-23T02:00:{nanoseconds // 10**9:02d}.{nanoseconds % 10**9:09d}Z"


def access(
    name: str, begin_ms: float, end_ms: float, parent: str = "", queue_ms: float = 0.0, **more: Any
) -> Record:
    """An access record of the replica `name#1`; its span is its name."""
    record = {
        **{"kind": "access", "time": time_at(end_ms), "replica": f"{name}#1", "span_id": name},
        **{"status": 200, "queue_ms": queue_ms, "processing_ms": end_ms - begin_ms - queue_ms},
        **({"parent_id": parent} if parent else {}),
    }
    return record | more


def log(name: str, at_ms: float, message: str = "m", **more: Any) -> Record:
    record = {
        **{"kind": "log", "time": time_at(at_ms), "replica": f"{name}#1", "message": message},
    }
    return record | more


def shape(step: Step) -> Any:
    """(name, messages, children) of a step, its name without the replica's number."""
    name = "lost" if step.access is None else str(step.access["replica"]).partition("#")[0]
    return name, [r["message"] for r in step.logs], [shape(child) for child in step.children]


def ms(seconds: float) -> float:
    return round((seconds - BEGIN_S) * 1000, 3)


def test_steps_hang_on_the_step_that_called_them_in_the_order_of_their_begin() -> None:
    records = [
        access("late", 50, 60, "front"),
        access("deep", 12, 18, "early"),
        access("early", 10, 20, "front"),
        access("front", 0, 100),
    ]
    (root,) = assemble(records)
    assert shape(root) == ("front", [], [("early", [], [("deep", [], [])]), ("late", [], [])])


def test_what_was_said_belongs_to_the_step_of_its_replica() -> None:
    records = [
        log("front", 1, "begin"),
        log("model", 12, "count: 5"),
        access("model", 10, 20, "front"),
        log("front", 30, "end"),
        access("front", 0, 100),
    ]
    (root,) = assemble(records)
    assert shape(root) == ("front", ["begin", "end"], [("model", ["count: 5"], [])])


def test_of_two_steps_in_one_replica_the_span_tells_whose_a_line_is() -> None:
    records = [
        *(log("model", 2, "first", span_id="one"), log("model", 3, "second", span_id="two")),
        access("model", 0, 10, "front", span_id="one"),
        access("model", 1, 11, "front", span_id="two"),
        access("front", 0, 100),
    ]
    (root,) = assemble(records)
    assert shape(root)[2] == [("model", ["first"], []), ("model", ["second"], [])]


def test_of_two_steps_in_one_replica_without_spans_the_time_tells() -> None:
    first, second = access("model", 0, 10, "front"), access("model", 20, 30, "front")
    del first["span_id"], second["span_id"]
    records = [
        *(log("model", 5, "first"), first, log("model", 25, "second"), second),
        access("front", 0, 100),
    ]
    (root,) = assemble(records)
    assert shape(root)[2] == [("model", ["first"], []), ("model", ["second"], [])]


def test_a_line_of_a_batch_is_shown_in_the_requests_own_step() -> None:
    (root,) = assemble([log("model", 5, "all", batch_ids=["r-1", "r-2"]), access("model", 0, 10)])
    assert shape(root) == ("model", ["all"], [])


def test_two_clients_that_sent_one_id_have_a_tree_each() -> None:
    records = [access("two", 50, 60), access("one", 0, 100)]
    assert [shape(root)[0] for root in assemble(records)] == ["one", "two"]


def test_steps_whose_caller_was_killed_hang_on_a_lost_one_with_what_it_said() -> None:
    records = [
        access("front", 0, 100, status=502),
        log("model", 5, "before the end", span_id="killed"),
        access("one", 10, 20, "killed"),
        access("two", 12, 30, "killed"),
    ]
    front, lost = assemble(records)
    assert shape(front) == ("front", [], [])
    assert shape(lost) == ("lost", ["before the end"], [("one", [], []), ("two", [], [])])
    assert lost.is_failed
    assert ms(lost.started_s) == 5


def test_what_a_killed_replica_said_is_shown_though_nothing_refers_to_it() -> None:
    records = [log("model", 5, "a"), log("other", 6, "b"), log("model", 7, "c")]
    assert [shape(step) for step in assemble(records)] == [
        ("lost", ["a", "c"], []),
        ("lost", ["b"], []),
    ]


def test_a_step_that_names_itself_as_its_caller_is_a_root() -> None:
    (root,) = assemble([access("odd", 0, 10, "odd")])
    assert shape(root) == ("odd", [], [])


def test_nothing_has_no_trees() -> None:
    assert assemble([]) == []


def test_a_steps_times_begin_with_its_wait() -> None:
    step = Step(access("model", 10, 60, queue_ms=20))
    assert ms(step.started_s) == 10
    assert (step.queue_ms, step.processing_ms, step.total_ms) == (20, 30, 50)


@pytest.mark.parametrize(
    ("children", "own_ms"),
    [
        ([], 100),
        ([(10, 30)], 80),
        ([(10, 30), (50, 60)], 70),
        ([(10, 30), (20, 40)], 70),
        ([(10, 60), (20, 40)], 50),
        ([(0, 100), (0, 100)], 0),
        ([(50, 250)], 0),
    ],
    ids=str,
)
def test_a_steps_own_time_is_what_it_did_not_wait_for_others(
    children: list[tuple[float, float]], own_ms: float
) -> None:
    step = Step(access("front", 0, 100))
    step.children = [Step(access("model", *times, "front")) for times in children]
    assert step.own_ms == pytest.approx(own_ms, abs=0.01)


def test_the_step_that_took_most_of_the_time_stands_out() -> None:
    (root,) = assemble(
        [access("front", 0, 100), access("fast", 1, 5, "front"), access("slow", 10, 90, "front")]
    )
    assert slow_steps(root) == {id(root.children[1])}


def test_the_step_that_waited_most_of_the_time_stands_out() -> None:
    (root,) = assemble(
        [access("front", 0, 100), access("full", 10, 90, "front", queue_ms=75, span_id="full")]
    )
    assert slow_steps(root) == {id(root.children[0])}


def test_no_step_stands_out_alone_or_without_times() -> None:
    assert slow_steps(Step(access("front", 0, 100))) == set()
    assert slow_steps(Step(None, children=[Step(access("a", 0, 0))])) == set()


@pytest.mark.parametrize(
    ("record", "is_failed"),
    [
        ({"status": 200}, False),
        ({"status": 399}, False),
        ({"status": 404}, True),
        ({"status": 500}, True),
        ({}, False),
        ({"status": None}, False),
        ({"status": "no number"}, False),
        (None, True),
    ],
)
def test_a_step_failed_by_its_status_or_without_a_record(
    record: Record | None, is_failed: bool
) -> None:
    assert Step(record).is_failed is is_failed


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23T02:08:01+02:00", None])
def test_a_time_that_cannot_be_read_is_nought(text: object) -> None:
    assert to_epoch({"time": text}) == 0.0


def test_a_time_is_read_to_the_microsecond() -> None:
    assert to_epoch({"time": "1970-01-01T00:00:01.234567891Z"}) == pytest.approx(1.234567891)


def test_a_tree_is_told_as_plain_data() -> None:
    (root,) = assemble([access("front", 0, 100, status=500), access("model", 10, 30, "front")])
    told = root.describe()
    assert (told["failed"], told["own_ms"], told["queue_ms"]) == (True, 80.0, 0.0)
    assert told["access"]["replica"] == "front#1"
    (child,) = told["children"]
    assert (child["processing_ms"], child["failed"], child["children"]) == (20.0, False, [])


spans = st.sampled_from(["a", "b", "c", "d", ""])
records = st.lists(
    st.builds(
        lambda kind, replica, span, parent, at: (
            access(replica, at, at + 5, parent, span_id=span)
            if kind
            else log(replica, at, span_id=span)
        ),
        st.booleans(),
        st.sampled_from(["x", "y"]),
        spans,
        spans,
        st.integers(0, 1000),
    ),
    max_size=8,
)


def has_no_circle(found: list[Record]) -> bool:
    """Whether every step leads to one that nobody of them called."""
    parents = {r["span_id"]: r.get("parent_id", "") for r in found if r["kind"] == "access"}
    for span in parents:
        seen = set()
        while span in parents and span not in seen:
            seen.add(span)
            above = parents[span]
            span = "" if above == span else above
        if span in seen:
            return False
    return True


def spans_differ(found: list[Record]) -> bool:
    own = [r["span_id"] for r in found if r["kind"] == "access" and r["span_id"]]
    return len(own) == len(set(own))


@given(records.filter(spans_differ).filter(has_no_circle))
def test_every_record_is_in_the_trees_exactly_once(found: list[Record]) -> None:
    roots = assemble(found)
    steps = [step for root in roots for step in root.walk()]
    told = [step.access for step in steps if step.access is not None]
    told += [record for step in steps for record in step.logs]
    assert sorted(map(id, told)) == sorted(map(id, found))
    for root in roots:
        root.describe()
        assert slow_steps(root) <= {id(step) for step in root.walk()}


def test_a_step_does_not_begin_before_its_call_was_made() -> None:
    """Its node's clock is behind: it and all below it, what they said too, are shifted."""
    records = [
        access("front", 100, 200, queue_ms=20),
        access("middle", 70, 140, "front"),
        access("deep", 80, 90, "middle"),
        log("middle", 75, "said"),
    ]
    (root,) = assemble(records)
    (middle,) = root.children
    (deep,) = middle.children
    assert [ms(step.started_s) for step in (root, middle, deep)] == [100.0, 120.0, 130.0]
    assert ms(middle.time_of(middle.logs[0])) == 125.0
    assert [step.describe()["clock_behind_ms"] for step in (root, middle, deep)] == [0, 50, 50]


def test_a_clock_that_is_ahead_is_left_alone() -> None:
    (root,) = assemble([access("front", 0, 100), access("middle", 90, 160, "front")])
    assert root.children[0].shift_s == 0.0


@given(
    st.lists(
        st.tuples(
            st.floats(-1e4, 1e4), st.floats(0, 1e4), st.sampled_from(["s", "batch"]), st.booleans()
        ),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from(["call", "remote", "shadow"]),
)
def test_no_offset_is_negative_whatever_the_clocks(
    times: list[tuple[float, float, str, bool]], way: str
) -> None:
    """Of calls of each way, of what a batch called, and of what has not ended."""
    records = []
    for n, (begin, length, called_by, is_ended) in enumerate(times):
        parent = f"{called_by}{n - 1}" if n else ""
        record = access(f"s{n}", begin + 2e4, begin + length + 2e4, parent, way=way)
        record["batch_span_id"] = f"batch{n}"
        records.append(record if is_ended or not n else record | {"kind": "under_way"})
    (root,) = assemble(records)
    assert all(step.started_s >= root.started_s - 1e-6 for step in root.walk())


def test_an_attempt_does_not_begin_before_its_request() -> None:
    """The clock that HAProxy's reading of the head is told by may be ahead of its replica's."""
    ended = log("one", 90, "ended", died_by="SIGKILL", request_id="r", backend="b")
    ended["processing_ms"] = 100.0
    called = access("deep", -5 + 20, 30, "one-span")
    said = log("one", 15, "said", span_id="one-span", backend="b")
    records = [called, said, ended, access("two", 0, 200, backend="b", retries=1)]
    (root,) = assemble(records)
    (attempt,) = root.children
    assert attempt.is_attempt
    assert ms(attempt.started_s) == ms(root.started_s) == 0
    assert [ms(child.started_s) for child in attempt.children] == [25.0]


def test_the_time_for_sending_is_part_of_a_step() -> None:
    record = access("front", 0, 80) | {"time": time_at(100), "send_ms": 20.0}
    (root,) = assemble([record])
    assert (ms(root.started_s), root.total_ms, root.own_ms) == (0.0, 100.0, 80.0)


def test_what_a_batch_called_hangs_on_each_of_its_requests() -> None:
    records = [
        access("called", 20, 30, "batch", batch_ids=["r-1", "r-2"]),
        access("one", 0, 40, batch_span_id="batch", batch_mates=["r-2"]),
    ]
    (root,) = assemble(records)
    assert shape(root) == ("one", [], [("called", [], [])])


def under_way(name: str, begin_ms: float, parent: str = "", **more: Any) -> Record:
    record = access(name, begin_ms, 100, parent, kind="under_way", stage="run", **more)
    del record["status"]
    return record


def test_a_step_under_way_is_in_the_tree_with_what_was_said_in_it() -> None:
    records = [under_way("front", 0), log("front", 5, "begin"), access("model", 10, 20, "front")]
    (root,) = assemble(records, is_live=True)
    assert shape(root) == ("front", ["begin"], [("model", [], [])])
    assert (root.state, root.is_failed) == (State.UNDER_WAY, False)


@pytest.mark.parametrize("has_span", [True, False])
def test_what_ended_while_it_was_asked_for_is_told_once(has_span: bool) -> None:
    records = [under_way("front", 0), access("front", 0, 101)]
    if not has_span:
        for record in records:
            del record["span_id"]
    (root,) = assemble(records, is_live=True)
    assert root.state is State.ENDED


def test_of_two_calls_alike_the_one_that_ended_is_told_as_ended() -> None:
    records = [under_way("m", 0, "f"), under_way("m", 0.1, "f"), access("m", 0, 101, "f")]
    records.append(access("front", 0, 200, span_id="f"))
    for record in records[:3]:
        record["span_id"] = ""
    (root,) = assemble(records, is_live=True)
    assert [child.state for child in root.children] == [State.ENDED, State.UNDER_WAY]


@pytest.mark.parametrize("stage", ["queue", "sent"])
def test_a_call_that_its_replica_tells_of_is_not_told_by_its_caller_too(stage: str) -> None:
    sent = under_way("model", 10, "front") | {"stage": stage, "span_id": ""}
    if stage == "queue":
        del sent["replica"]
    arrived = [under_way("model", 10, "front"), under_way("front", 0)]
    (root,) = assemble([sent, *arrived], is_live=True)
    assert [child.access and child.access["stage"] for child in root.children] == ["run"]
    (root,) = assemble([sent, arrived[1]], is_live=True)
    assert [child.access and child.access["stage"] for child in root.children] == [stage]


def end_of(name: str, at_ms: float, **more: Any) -> Record:
    return log(name, at_ms, "ended", died_by="SIGKILL", **more)


def test_a_process_that_was_started_anew_is_not_the_one_that_ended() -> None:
    records = [log("m", 5, "first", pid=1), access("m", 0, 100, pid=2, backend="m")]
    facts = [end_of("m", 20, pid=1, backend="m"), end_of("m", 300, pid=2, backend="m")]
    records[0]["backend"] = "m"
    (root,) = assemble([*records, *facts], is_live=True)
    (attempt,) = root.children
    assert attempt.fate is facts[0]
    assert (attempt.state, attempt.is_attempt, attempt.total_ms) == (
        State.KILLED,
        True,
        pytest.approx(15, abs=0.01),
    )


def test_what_a_killed_step_called_hangs_on_it_though_it_said_nothing() -> None:
    killed = end_of("front", 50, request_id="r", processing_ms=50.0)
    (root,) = assemble([access("model", 10, 20, "gone"), killed], is_live=True)
    assert shape(root) == ("lost", ["ended"], [("model", [], [])])


@pytest.mark.parametrize(
    ("replica", "at_ms", "state"),
    [("front", 60, State.DROPPED), ("other", 60, State.LOST), ("front", 1, State.LOST)],
)
def test_a_record_may_be_among_those_that_its_replica_dropped_later(
    replica: str, at_ms: float, state: State
) -> None:
    gap = log(replica, at_ms, "3 dropped", dropped=3)
    (root,) = assemble([log("front", 5, "said"), gap], is_live=True)
    assert root.state is state
    assert root.describe()["dropped"] == (3 if state is State.DROPPED else None)
