"""The options: defaults of Ray Serve 1.3.0, what is filled in later, what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from serve.config import (
    BackendConfig,
    DeploymentMode,
    HTTPOptions,
    Traits,
    parse_config,
    parse_http_options,
)

ASYNC = Traits("handler", is_blocking=False)
BLOCKING = Traits("handler")


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("num_replicas", 1),
        ("max_batch_size", None),
        ("batch_wait_timeout", 0),
        ("max_concurrent_queries", 8),
        ("user_config", None),
        ("experimental_graceful_shutdown_wait_loop_s", 2.0),
        ("experimental_graceful_shutdown_timeout_s", 20.0),
        ("max_queued_queries", 1000),
        ("queue_timeout_s", 60.0),
        ("retries", 1),
        ("handler_threads", 1),
        ("placement_timeout_s", 60.0),
        ("startup_timeout_s", 600.0),
        ("health_check_period_s", 10.0),
        ("health_check_timeout_s", 30.0),
        ("logging_config", None),
        ("exposed_methods", ()),
    ],
)
def test_a_backend_option_has_its_documented_default(name: str, default: object) -> None:
    assert getattr(BackendConfig(), name) == default


def test_no_backend_option_escapes_the_table_of_defaults() -> None:
    assert len(BackendConfig.model_fields) == 17


@pytest.mark.parametrize(
    ("options", "traits", "expected"),
    [
        ({}, BLOCKING, 8),
        ({"max_batch_size": 7}, BLOCKING, 14),
        ({"max_batch_size": 7, "batch_wait_timeout": 0.5}, BLOCKING, 14),
        ({}, ASYNC, 100),
        ({"max_batch_size": 7}, ASYNC, 100),
        ({"max_batch_size": 7, "batch_wait_timeout": 0.5}, ASYNC, 14),
        ({"max_concurrent_queries": 3}, ASYNC, 3),
        ({"max_concurrent_queries": None}, ASYNC, 100),
    ],
)
def test_the_default_concurrency_follows_what_the_backend_is(
    options: dict[str, Any], traits: Traits, expected: int
) -> None:
    assert BackendConfig(**options).resolve(traits).max_concurrent_queries == expected


def test_the_default_concurrency_is_known_before_the_backend_is() -> None:
    assert BackendConfig().max_concurrent_queries == 8
    assert BackendConfig(max_batch_size=7).max_concurrent_queries == 14


def test_a_concurrency_that_was_worked_out_does_not_count_as_set() -> None:
    assert BackendConfig(num_replicas=2).resolve(ASYNC).model_fields_set == {"num_replicas"}


def test_resolving_leaves_the_original_as_it_was() -> None:
    config = BackendConfig()
    config.resolve(ASYNC)
    assert config.max_concurrent_queries == 8


def test_a_merge_takes_only_the_fields_that_were_set() -> None:
    base = BackendConfig(num_replicas=3, user_config={"a": 1})
    merged = base.merge(BackendConfig(num_replicas=5))
    assert (merged.num_replicas, merged.user_config) == (5, {"a": 1})


def test_a_merge_takes_a_field_that_was_set_to_its_default() -> None:
    assert BackendConfig(num_replicas=3).merge(BackendConfig(num_replicas=1)).num_replicas == 1


def test_a_merge_leaves_the_concurrency_to_be_worked_out_anew() -> None:
    merged = BackendConfig().resolve(BLOCKING).merge(BackendConfig(max_batch_size=5))
    assert merged.resolve(BLOCKING).max_concurrent_queries == 10


def test_a_merge_changes_neither_side() -> None:
    base, change = BackendConfig(num_replicas=3), BackendConfig(user_config=1)
    base.merge(change)
    assert (base.user_config, change.num_replicas) == (None, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_replicas", 0),
        ("num_replicas", "many"),
        ("max_batch_size", 0),
        ("batch_wait_timeout", -1),
        ("max_concurrent_queries", 0),
        ("experimental_graceful_shutdown_wait_loop_s", -0.1),
        ("experimental_graceful_shutdown_timeout_s", -0.1),
        ("max_queued_queries", 0),
        ("queue_timeout_s", 0),
        ("queue_timeout_s", float("nan")),
        ("retries", -1),
        ("retries", 11),
        ("handler_threads", 0),
        ("placement_timeout_s", 0),
        ("startup_timeout_s", 0),
        ("health_check_period_s", 0),
        ("health_check_timeout_s", 0),
        ("health_check_timeout_s", float("inf")),
        ("num_replica", 2),
    ],
)
def test_a_bad_or_unknown_backend_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        BackendConfig(**{name: value})


def test_an_assignment_is_checked_too() -> None:
    config = BackendConfig()
    with pytest.raises(ValidationError, match="num_replicas"):
        config.num_replicas = 0
    with pytest.raises(ValidationError, match="nothing_like_it"):
        config.nothing_like_it = 1


def test_a_draining_wait_of_zero_is_allowed() -> None:
    config = BackendConfig(experimental_graceful_shutdown_wait_loop_s=0)
    assert config.experimental_graceful_shutdown_wait_loop_s == 0


def test_http_options_have_their_documented_defaults() -> None:
    options = HTTPOptions()
    assert (options.host, options.port, options.middlewares) == ("127.0.0.1", 8000, [])
    assert options.location is DeploymentMode.HeadOnly
    assert options.request_timeout_s == 600.0


@pytest.mark.parametrize(
    "options", [{"host": None}, {"location": None}, {"location": "NoServer"}], ids=str
)
def test_every_way_to_ask_for_no_server_gives_none(options: dict[str, Any]) -> None:
    assert HTTPOptions(**options).location is DeploymentMode.NoServer


@pytest.mark.parametrize("location", ["HeadOnly", "EveryNode"])
def test_a_location_is_taken_by_its_name(location: str) -> None:
    assert HTTPOptions(location=location).location is DeploymentMode(location)


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 0), ("port", 65536), ("location", "Moon"), ("prot", 1), ("request_timeout_s", 0)],
)
def test_a_bad_or_unknown_http_option_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        HTTPOptions(**{name: value})


def test_middlewares_of_one_instance_are_not_another_ones() -> None:
    HTTPOptions().middlewares.append("mine")
    assert HTTPOptions().middlewares == []


def test_a_config_is_taken_as_object_as_dictionary_or_not_at_all() -> None:
    config = BackendConfig(num_replicas=2)
    assert parse_config(config, "config") is config
    assert parse_config({"num_replicas": 2}, "config") == config
    assert parse_config(None, "config") == BackendConfig()


def test_a_config_of_another_type_is_refused_with_its_argument_named() -> None:
    with pytest.raises(
        TypeError, match=r"^config_options must be a BackendConfig or dictionary\. Got int"
    ):
        parse_config(3, "config_options")  # type: ignore[arg-type]


def test_http_options_are_taken_as_object_as_dictionary_or_not_at_all() -> None:
    options = HTTPOptions(port=9)
    assert parse_http_options(options) is options
    assert parse_http_options({"port": 9}) == options
    assert parse_http_options(None) == HTTPOptions()


def test_http_options_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="http_options must be HTTPOptions or a dictionary"):
        parse_http_options("0.0.0.0")  # type: ignore[arg-type]


def test_what_was_stored_before_an_option_came_to_be_has_its_default() -> None:
    stored = BackendConfig(num_replicas=3)
    del stored.__dict__["health_check_period_s"]
    read = pickle.loads(pickle.dumps(stored))
    assert (read.num_replicas, read.health_check_period_s) == (3, 10.0)
    assert read.model_fields_set == {"num_replicas"}
