"""Requests that no endpoint takes: found in the raw line, sampled past a rate, all counted."""

from __future__ import annotations

import pytest

from observability.instrument.access import AccessRecord
from observability.instrument.logging_config import LoggingConfig
from serve.ingress.maps import MISS_SECTION, RELAY_SECTION, ROUTES_SECTION
from serve.ingress.strays import (
    FULL_RATE,
    SAMPLE,
    TELL_S,
    LostLines,
    StraySampler,
    find_stray,
    stray_retention,
)
from tests.unit.test_ingress_loglines import make_line, record_of

NOWHERE = {"endpoint": "-", "route": "-", "tag": "-", "ts": "LR", "rc": "0"}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    "line",
    [
        NOWHERE | {"ST": "404", "b": MISS_SECTION},
        NOWHERE | {"ST": "307", "b": MISS_SECTION},
        NOWHERE | {"ST": "200", "b": ROUTES_SECTION},
        NOWHERE | {"ST": "400", "ts": "PR", "id": "-", "b": "ingress"},
        {"ST": "405", "ts": "LR", "b": "ingress", "tag": "-"},
    ],
)
def test_what_no_endpoint_takes_is_found_and_counted_as_its_record_would_be(
    line: dict[str, str],
) -> None:
    stray, record = find_stray(make_line(**line)), record_of(**line)
    assert stray is not None
    assert record is not None
    assert (stray.way, stray.status, stray.endpoint, stray.route) == (
        *("http", record.status, record.endpoint, record.route),
    )


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"ST": "503", "ts": "LR"},
        {"ST": "503", "ts": "sQ"},
        {"ST": "200", "ts": "--"},
        NOWHERE | {"ST": "404", "b": RELAY_SECTION},
        NOWHERE | {"ST": "-1", "ts": "CR"},
    ],
)
def test_what_an_endpoint_takes_is_no_stray(line: dict[str, str]) -> None:
    assert find_stray(make_line(**line)) is None


@pytest.mark.parametrize("line", [b"", b"Proxy ingress started.", b"\t" * 20])
def test_what_is_no_line_is_no_stray(line: bytes) -> None:
    assert find_stray(line) is None


def test_few_are_all_recorded_and_of_many_one_in_a_hundred() -> None:
    clock = Clock()
    sampler = StraySampler(clock)
    for second in range(3):
        clock.now_s = 1000.0 + second
        assert sum(sampler.takes() for _ in range(FULL_RATE)) == FULL_RATE
    assert sum(sampler.takes() for _ in range(10 * SAMPLE)) == 10
    assert sampler.left_out == 10 * (SAMPLE - 1)


def test_what_was_left_out_is_told_once_a_minute() -> None:
    clock = Clock()
    sampler = StraySampler(clock)
    clock.now_s += TELL_S
    assert sampler.tell() == ""
    for _ in range(FULL_RATE + 50):
        sampler.takes()
    assert sampler.tell().startswith("50 requests that no endpoint takes")
    for _ in range(7):
        sampler.takes()
    assert sampler.tell() == ""
    clock.now_s += TELL_S
    assert sampler.tell().startswith("7 requests that no endpoint takes")


def test_their_segments_have_a_small_share_of_the_folder() -> None:
    retention = stray_retention(LoggingConfig())
    assert retention.own.max_total_bytes == 128 * 1024 * 1024
    assert retention.segment_bytes * 4 <= retention.own.max_total_bytes
    assert stray_retention(LoggingConfig(max_total_bytes=4096)).own.max_total_bytes == 4096


def test_lines_that_haproxy_lost_add_up_over_its_workers() -> None:
    lost = LostLines()
    assert [lost.see("1", 0), lost.see("1", 5), lost.see("2", 3), lost.see("2", 3)] == [0, 5, 3, 0]
    assert lost.count == 8


def test_an_empty_record_has_what_is_counted_only() -> None:
    assert find_stray(make_line(**NOWHERE, ST="404", b=MISS_SECTION)) == AccessRecord(
        way="http", status=404
    )
