"""The split of an endpoint's traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.traffic import (
    SPLIT_SCALE,
    TrafficPolicy,
    choose_backend,
    choose_shadows,
    shadow_edge,
    split_number,
    thresholds,
)

NUMBERS = st.integers(0, SPLIT_SCALE - 1)


@st.composite
def policies(draw: st.DrawFn) -> TrafficPolicy:
    parts = draw(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(0, 1000), min_size=1))
    total = sum(parts.values())
    if total == 0:
        return TrafficPolicy.of(dict.fromkeys(parts, 1 / len(parts)))
    return TrafficPolicy.of({tag: part / total for tag, part in parts.items()})


@given(policies())
def test_the_thresholds_cover_the_whole_range_in_rising_order(policy: TrafficPolicy) -> None:
    edges = [edge for _, edge in thresholds(policy)]
    assert edges == sorted(edges)
    assert edges[0] > 0 and edges[-1] == SPLIT_SCALE


@given(policies(), NUMBERS)
def test_every_number_has_a_backend_with_a_weight(policy: TrafficPolicy, number: int) -> None:
    assert dict(policy.weights)[choose_backend(policy, number) or ""] > 0


@given(policies())
def test_each_backends_share_of_the_numbers_is_its_weight(policy: TrafficPolicy) -> None:
    begin, shares = 0, {}
    for tag, edge in thresholds(policy):
        shares[tag], begin = (edge - begin) / SPLIT_SCALE, edge
    assert shares == pytest.approx({t: w for t, w in policy.weights if w > 0}, abs=3e-9)


@given(policies())
def test_a_backend_owns_the_numbers_up_to_its_threshold(policy: TrafficPolicy) -> None:
    begin = 0
    for tag, edge in thresholds(policy):
        if begin < edge:
            assert choose_backend(policy, begin) == choose_backend(policy, edge - 1) == tag
        begin = edge


def test_the_walk_is_in_the_order_of_the_tags() -> None:
    policy = TrafficPolicy.of({"b": 0.75, "a": 0.25})
    assert thresholds(policy) == [("a", 250_000_000), ("b", 1_000_000_000)]
    assert choose_backend(policy, 249_999_999) == "a"
    assert choose_backend(policy, 250_000_000) == "b"


def test_weights_that_miss_one_by_a_little_leave_no_number_to_nobody() -> None:
    policy = TrafficPolicy.of({"a": 0.5, "b": 0.5 - 9e-9})
    assert choose_backend(policy, SPLIT_SCALE - 1) == "b"


def test_a_backend_with_a_weight_of_zero_gets_nothing_at_either_end() -> None:
    policy = TrafficPolicy.of({"a": 0, "b": 1, "c": 0})
    assert thresholds(policy) == [("b", SPLIT_SCALE)]


def test_a_policy_without_traffic_chooses_nobody() -> None:
    assert choose_backend(TrafficPolicy(), 0) is None


@given(st.text(), st.text())
def test_a_shard_key_always_gives_the_same_number_in_range(key: str, other: str) -> None:
    assert split_number(key) == split_number(key)
    assert 0 <= split_number(key) < SPLIT_SCALE
    if key != other:  # a collision within the examples would be a weak hash
        assert split_number(key) != split_number(other)


# Expected: `printf KEY | sha256sum | cut -c1-15`, read as a hexadecimal number, modulo SPLIT_SCALE.
@pytest.mark.parametrize(
    ("key", "number"),
    [("user-1", 249885787), ("", 51516353), ("ключ", 296132314)],
    ids=["text", "empty", "not ASCII"],
)
def test_a_shard_keys_number_is_the_one_that_haproxy_works_out(key: str, number: int) -> None:
    assert split_number(key) == number


def test_numbers_without_a_shard_key_spread_over_the_range() -> None:
    numbers = [split_number(None) for _ in range(2000)]
    assert all(0 <= number < SPLIT_SCALE for number in numbers)
    assert sum(number < SPLIT_SCALE // 4 for number in numbers) == pytest.approx(500, abs=120)


@given(NUMBERS, st.floats(0.000001, 1))
def test_a_shadow_gets_a_copy_when_its_proportion_exceeds_the_number(
    number: int, proportion: float
) -> None:
    policy = TrafficPolicy.of({"a": 1}, {"s": proportion})
    assert choose_shadows(policy, number) == (["s"] if number < shadow_edge(proportion) else [])


def test_shadows_are_chosen_independently_in_the_order_of_their_tags() -> None:
    policy = TrafficPolicy.of({"a": 1}, {"z": 1, "y": 0.5, "x": 0.1})
    assert choose_shadows(policy, SPLIT_SCALE // 4) == ["y", "z"]
    assert choose_shadows(policy, SPLIT_SCALE - 1) == ["z"]


def test_a_policy_names_each_of_its_backends_once() -> None:
    policy = TrafficPolicy.of({"b": 0.5, "a": 0.5}, {"b": 0.1, "c": 0.1})
    assert policy.backend_tags == ("a", "b", "c")


def test_policies_of_the_same_weights_are_equal() -> None:
    assert TrafficPolicy.of({"a": 0.5, "b": 0.5}) == TrafficPolicy.of({"b": 0.5, "a": 0.5})
