"""Checks of what users pass that need no knowledge of the instance."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serve.validate import (
    check_actor_options,
    check_methods,
    check_name,
    check_proportion,
    check_weights_type,
)


@pytest.mark.parametrize("name", ["a", "my backend", "модель", "a/b:c#d"])
def test_printable_text_is_a_name(name: str) -> None:
    assert check_name(name, "backend_tag") == name


@pytest.mark.parametrize("name", ["", "a\nb", "a\r", "\x00", "a\tb", "\x1b[31m"])
def test_a_name_that_would_break_a_header_or_a_log_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="backend_tag must be printable text"):
        check_name(name, "backend_tag")


@pytest.mark.parametrize("name", [None, 1, b"a"])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TypeError, match=f"endpoint_name must be a str. Got {type(name).__name__}"):
        check_name(name, "endpoint_name")


def test_a_replica_asks_for_one_cpu_unless_told_otherwise() -> None:
    assert check_actor_options(None) == {"num_cpus": 1}
    assert check_actor_options({}) == {"num_cpus": 1}
    assert check_actor_options({"num_cpus": 0}) == {"num_cpus": 0}


def test_other_actor_options_are_passed_on() -> None:
    options = {"num_gpus": 0.5, "resources": {"Magic": 0.1}, "runtime_env": {"conda": "env"}}
    assert check_actor_options(options) == {"num_cpus": 1, **options}


def test_checking_actor_options_does_not_change_them() -> None:
    options: dict[str, Any] = {}
    check_actor_options(options)
    assert options == {}


@pytest.mark.parametrize("options", [[], "num_cpus", 1])
def test_actor_options_that_are_no_dictionary_are_refused(options: object) -> None:
    with pytest.raises(TypeError, match="ray_actor_options must be a dictionary"):
        check_actor_options(options)


@pytest.mark.parametrize(
    "key",
    [
        "lifetime",
        "name",
        "namespace",
        "max_restarts",
        "max_task_retries",
        "max_concurrency",
        "placement_group",
        "get_if_exists",
    ],
)
def test_an_actor_option_that_is_not_the_users_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"Specifying {key} in ray_actor_options is not allowed"):
        check_actor_options({key: None})


@pytest.mark.parametrize("key", ["num_cpus", "num_gpus", "memory", "object_store_memory"])
def test_an_amount_that_is_no_number_or_negative_is_refused_by_its_name(key: str) -> None:
    for amount in ("1", None, True):
        with pytest.raises(TypeError, match=f"{key} in ray_actor_options must be a number"):
            check_actor_options({key: amount})
    for negative in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"{key} in ray_actor_options must be >= 0"):
            check_actor_options({key: negative})


def test_custom_resources_are_checked_one_by_one() -> None:
    with pytest.raises(TypeError, match="resources in ray_actor_options must be a dictionary"):
        check_actor_options({"resources": [1]})
    with pytest.raises(TypeError, match="resource 'Magic' in ray_actor_options must be a number"):
        check_actor_options({"resources": {"Magic": "1"}})
    with pytest.raises(ValueError, match="resource 'Magic' in ray_actor_options must be >= 0"):
        check_actor_options({"resources": {"Magic": -1}})


def test_no_methods_are_left_to_the_backend() -> None:
    assert check_methods(None) is None


def test_methods_become_upper_case_and_lose_their_doubles() -> None:
    assert check_methods(["post", "GET", "Post"]) == ("POST", "GET")


@pytest.mark.parametrize("methods", ["GET", ("GET",), {"GET"}, 1])
def test_methods_that_are_no_list_are_refused(methods: object) -> None:
    with pytest.raises(TypeError, match="methods must be a list of str"):
        check_methods(methods)


@pytest.mark.parametrize("method", [1, None, "", "GE T", "GET\n", "Ä"])
def test_a_method_that_could_not_stand_in_a_request_is_refused(method: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"but it contained {method!r}")):
        check_methods(["GET", method])


def test_traffic_is_a_dictionary_of_tags_and_numbers() -> None:
    assert check_weights_type({"a": 1, "b": 0.5}) == {"a": 1, "b": 0.5}


@pytest.mark.parametrize("weights", [None, "a", ["a"], 1.0])
def test_traffic_that_is_no_dictionary_is_refused(weights: object) -> None:
    with pytest.raises(TypeError, match="Traffic policy must be a dictionary of backend tag"):
        check_weights_type(weights)


@pytest.mark.parametrize("entry", [(1, 0.5), ("a", "0.5"), ("a", None), ("a", True)])
def test_a_traffic_entry_of_a_wrong_type_is_refused_and_shown(entry: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match=re.escape(f"It has {entry[0]!r}: {entry[1]!r}")):
        check_weights_type(dict([entry]))


@pytest.mark.parametrize("proportion", [0, 1, 0.5])
def test_a_proportion_is_a_number_from_zero_to_one(proportion: float) -> None:
    assert check_proportion(proportion) == proportion


@pytest.mark.parametrize("proportion", [-0.1, 1.1, "0.5", None, True, float("nan")])
def test_any_other_proportion_is_refused(proportion: object) -> None:
    with pytest.raises(TypeError, match=r"proportion must be a float from 0 to 1\."):
        check_proportion(proportion)


def test_an_empty_list_of_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one HTTP method"):
        check_methods([])
