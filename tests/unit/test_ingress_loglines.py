"""HAProxy's log lines, and which of them become access records."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.instrument.access import AccessRecord
from observability.instrument.encode import encode_line, encode_tail
from serve.ingress.loglines import LogLine, explain, log_format, parse_line, to_record
from serve.ingress.maps import MISS_SECTION, NO_TRAFFIC_SECTION, RELAY_SECTION

FILES = {"tags": "/tags.map", "endpoints": "/endpoints.map", "routes": "/routes.map"}
TOKENS = log_format(FILES).strip("'").split("\t")

USUAL = {
    **{"%[var(txn.id)]": "r-1", "%HM": "GET", "%ST": "502", "%ts": "SH", "%Tw": "3", "%Ta": "10"},
    **{"%U": "120", "%B": "340", "%ci": "10.0.0.9", "%rc": "0", "%b": "b_model_0123456789ab"},
    **{"%[be_name,map_str(/tags.map)]": "model", "%HP": "/f"},
    "%[var(txn.key),map_str(/endpoints.map)]": "my_endpoint",
    "%[var(txn.key),map_str(/routes.map)]": "/f",
}
"""What HAProxy writes for each field; `-` for one without a value."""


def make_line(**changes: str) -> bytes:
    """A line as HAProxy writes it. Keywords: its letters without `%`; `id`, `tag`, `untold`."""
    names = {
        **{"id": "%[var(txn.id)]", "untold": "%[var(txn.untold)]"},
        **{"died": "%[var(txn.died)]", "tag": "%[be_name,map_str(/tags.map)]"},
        "endpoint": "%[var(txn.key),map_str(/endpoints.map)]",
        "route": "%[var(txn.key),map_str(/routes.map)]",
    }
    values = USUAL | {names.get(name, f"%{name}"): text for name, text in changes.items()}
    assert set(values) <= set(TOKENS)
    return "\t".join(values.get(token, "-") for token in TOKENS).encode()


def parse(**changes: str) -> LogLine:
    line = parse_line(make_line(**changes))
    assert line is not None
    return line


def record_of(**changes: str) -> AccessRecord | None:
    return to_record(parse(**changes), "made", has_client=False)


def test_a_line_tells_of_a_request_that_no_replica_answered() -> None:
    assert record_of(rc="2") == AccessRecord(
        way="http",
        method="GET",
        path="/f",
        status=502,
        endpoint="my_endpoint",
        route="/f",
        request_id="r-1",
        queue_ms=3.0,
        processing_ms=7.0,
        bytes_in=120,
        bytes_out=340,
        retries=2,
        error="replica_died",
        backend="model",
    )


@pytest.mark.parametrize(("died", "retries"), [("1 model#abc", 0), ("3 model#abc", 2)])
def test_a_sidecars_answer_says_which_replica_died_and_how_many_did(
    died: str, retries: int
) -> None:
    record = record_of(ts="--", untold="1", rc="40", died=died)
    assert record is not None
    assert (record.error, record.replica, record.retries) == ("replica_died", "model#abc", retries)


def test_the_replica_that_had_it_last_is_told_of() -> None:
    record = to_record(parse(), "made", has_client=False, replica="model#abc")
    assert record is not None and record.replica == "model#abc"


@pytest.mark.parametrize(("server", "name"), [("<NOSRV>", ""), ("-", ""), ("r_a_1", "r_a_1")])
def test_haproxys_name_of_a_replica_is_known_where_there_was_one(server: str, name: str) -> None:
    assert parse(s=server).server == name


def test_the_client_is_told_of_only_if_asked_for() -> None:
    line = parse()
    records = [to_record(line, "made", has_client=asked) for asked in (False, True)]
    assert [record.client for record in records if record] == ["", "10.0.0.9"]


def test_retries_that_reached_another_replica_are_counted() -> None:
    assert parse(rc="+1").retries == 1


@pytest.mark.parametrize(
    ("state", "changes", "error"),
    [
        ("LR", {"ST": "404", "b": MISS_SECTION}, "not_found"),
        ("LR", {"ST": "405"}, "method_not_allowed"),
        ("LR", {"ST": "200"}, ""),
        ("LR", {"ST": "503"}, "queue_full"),
        ("LR", {"ST": "503", "b": NO_TRAFFIC_SECTION}, "no_traffic"),
        ("--", {"ST": "404", "b": MISS_SECTION}, "not_found"),
        ("--", {"ST": "400", "untold": "1"}, "bad_request"),
        ("--", {"ST": "200"}, None),
        ("--", {"ST": "500"}, None),
        ("--", {"ST": "502", "untold": "1", "died": "1 model#abc"}, "replica_died"),
        ("CD", {"ST": "200"}, None),
        ("CH", {"ST": "-1"}, None),
        ("CQ", {"ST": "-1"}, "client_gone"),
        ("CR", {"ST": "400"}, "client_gone"),
        ("CR", {"ST": "400", "id": "-"}, None),
        ("PH", {"ST": "400"}, None),
        ("PD", {"ST": "200"}, None),
        ("cR", {"ST": "408"}, "request_timeout"),
        ("PR", {"ST": "400"}, "bad_request"),
        ("sQ", {"ST": "503"}, "queue_timeout"),
        ("SC", {"ST": "503"}, "no_replica"),
        ("SD", {"ST": "200"}, "replica_died"),
        ("sH", {"ST": "504"}, "replica_timeout"),
        ("PH", {"ST": "502"}, "bad_answer"),
        ("RC", {"ST": "503"}, "ingress_overloaded"),
        ("IH", {"ST": "500"}, "ingress_error"),
        ("", {"ST": "200"}, None),
    ],
)
def test_why_a_request_is_no_success_is_said_in_a_word(
    state: str, changes: dict[str, str], error: str | None
) -> None:
    assert explain(parse(ts=state, **changes)) == error
    record = record_of(ts=state, **changes)
    assert (record.error if record else None) == error


def test_a_request_that_another_worker_got_is_told_of_there() -> None:
    assert record_of(b=RELAY_SECTION) is None


def test_a_client_that_went_away_has_its_own_status() -> None:
    record = record_of(ts="CQ", ST="-1", Tw="-1", Ta="250")
    assert record is not None
    assert (record.status, record.queue_ms, record.processing_ms) == (499, 250.0, 0.0)


def test_an_answer_cut_off_keeps_the_status_that_the_client_saw() -> None:
    record = record_of(ts="SD", ST="200")
    assert record is not None
    assert (record.status, record.error) == (200, "replica_died")


def test_what_haproxy_could_not_read_has_neither_method_nor_path() -> None:
    changes = {"HM": "<BADREQ>", "HP": "<BADREQ>", "id": "-", "endpoint": "-", "route": "-"}
    record = record_of(ts="PR", ST="400", tag="-", Tw="-1", Ta="-1", **changes)
    assert record is not None
    assert (record.method, record.path, record.endpoint, record.route) == ("", "", "", "")
    assert (record.request_id, record.backend) == ("made", "")
    assert (record.queue_ms, record.processing_ms) == (0.0, 0.0)


def test_a_long_path_is_cut_and_a_path_with_tabs_stays_one_field() -> None:
    assert len(parse(HP="/" + "x" * 5000).path) == 1024
    assert parse(HP="/a\tb\tc").path == "/a\tb\tc"


def test_bytes_that_are_no_text_are_replaced() -> None:
    line = parse_line(make_line(HP="/f") + b"\xff\xfe")
    assert line is not None
    assert line.path == "/f\ufffd\ufffd"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[NOTICE]   (1) : New worker (2) forked",
        b"\t" * (len(TOKENS) - 1),
        b"\t".join([b"-"] * len(TOKENS)),
        make_line(ST="two hundred"),
        make_line(U="9" * 4999),
        make_line().rpartition(b"\t")[0],
    ],
)
def test_a_line_that_is_none_is_passed_over(data: bytes) -> None:
    assert parse_line(data) is None


def check(data: bytes) -> None:
    """A line may be anything: it becomes a sound record, or none."""
    line = parse_line(data)
    if line is None:
        return
    record = to_record(line, "made", has_client=True)
    if record is None:
        return
    assert record.request_id
    assert record.status >= 0
    assert record.queue_ms >= 0
    assert record.processing_ms >= 0
    written = encode_line(record, encode_tail({"component": "ingress"}))
    assert written.count(b"\n") == 1
    found = json.loads(written, object_pairs_hook=list)
    assert [name for name, _ in found].count("component") == 1


@given(st.binary())
def test_any_bytes_are_survived(data: bytes) -> None:
    check(data)


pieces = (
    st.integers(-(2**63), 2**63).map(str)
    | st.text(st.characters(exclude_characters="\t\n"), max_size=20)
    | st.sampled_from(["-", "--", "SH", "CQ", "LR", "<BADREQ>", '","replica":"x', "\x00", "+3"])
)


@given(st.lists(pieces, min_size=len(TOKENS), max_size=len(TOKENS) + 2), st.binary(max_size=5))
def test_any_line_with_the_right_number_of_fields_is_survived(
    fields: list[str], end: bytes
) -> None:
    check("\t".join(fields).encode("utf-8", "replace") + end)


numbers = st.integers(-1, 2**40).map(str)
states = st.sampled_from(["SH", "CQ", "LR", "--", "sQ", "PR", "RC", "??"])


@given(
    st.tuples(numbers, numbers, numbers, numbers, numbers),
    states,
    st.text(st.characters(exclude_characters="\t\n"), max_size=30),
)
def test_any_figures_and_any_text_make_a_sound_record(
    figures: tuple[str, str, str, str, str], state: str, text: str
) -> None:
    status, wait_ms, total_ms, bytes_in, bytes_out = figures
    usual = make_line(ts=state, ST=status, Tw=wait_ms, Ta=total_ms, U=bytes_in, B=bytes_out)
    line = usual + text.encode("utf-8", "replace")
    assert parse_line(line) is not None
    check(line)
