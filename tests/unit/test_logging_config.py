"""The options of logging."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from observability.fields import FIELDS
from observability.instrument.logging_config import LEVELS, LoggingConfig, set_fields
from observability.instrument.retention import Retention, Share


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("debug", "DEBUG"),
        ("Warning", "WARNING"),
        (logging.ERROR, "ERROR"),
        (logging.WARN, "WARNING"),
        (logging.FATAL, "CRITICAL"),
    ],
)
def test_a_level_is_taken_by_name_and_by_number(given: Any, expected: str) -> None:
    config = LoggingConfig(level=given)
    assert config.level == expected
    assert config.level_number == getattr(logging, expected)


@pytest.mark.parametrize("given", ["", "LOUD", "INFO ", 25, 0, True, None, 20.0, "NOTSET"])
def test_a_level_that_is_none_is_refused_and_the_levels_are_named(given: Any) -> None:
    with pytest.raises(ValidationError, match=", ".join(LEVELS)):
        LoggingConfig(level=given)


def test_the_encoding_is_taken_in_any_case_and_others_are_refused() -> None:
    assert LoggingConfig(encoding="json").encoding == "JSON"  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="'TEXT' or 'JSON'"):
        LoggingConfig(encoding="XML")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_no_extra_field_may_have_the_name_of_one_of_ours(field: Any) -> None:
    with pytest.raises(ValidationError, match=rf"extra_fields can't be named \['{field.name}'\]"):
        LoggingConfig(extra_fields={"team": "a", field.name: "forged"})


@pytest.mark.parametrize(
    "given",
    [
        {"leve": "INFO"},
        {"segment_bytes": 4095},
        {"max_age_s": 0},
        {"max_age_s": float("inf")},
        {"max_age_s": float("nan")},
        {"max_total_bytes": 0},
        {"extra_fields": {1: "a"}},
        {"stderr": "perhaps"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoggingConfig(**given)


def test_a_field_that_is_changed_later_is_checked_too() -> None:
    config = LoggingConfig()
    with pytest.raises(ValidationError):
        config.level = "LOUD"
    config.level = "debug"
    assert config.level == "DEBUG"
    assert set_fields(config) == {"level": "DEBUG"}


def test_a_backends_configuration_goes_before_the_instances_field_by_field() -> None:
    instance = LoggingConfig(level="ERROR", stderr=False, segment_bytes=5000)
    backend = LoggingConfig(level="INFO", access_log=False)
    both = backend.over(instance)
    assert set_fields(both) == {
        **{"level": "INFO", "stderr": False, "segment_bytes": 5000},
        "access_log": False,
    }
    assert both.max_age_s == LoggingConfig().max_age_s


def test_a_field_set_to_its_default_counts_as_set() -> None:
    assert LoggingConfig(level="INFO").over(LoggingConfig(level="ERROR")).level == "INFO"
    assert LoggingConfig().over(LoggingConfig(level="ERROR")).level == "ERROR"


def test_what_was_set_is_still_known_after_a_journey_to_another_process() -> None:
    config = pickle.loads(pickle.dumps(LoggingConfig(level="ERROR", extra_fields={"team": "a"})))
    assert set_fields(config) == {"level": "ERROR", "extra_fields": {"team": "a"}}


def test_two_configurations_share_no_extra_fields() -> None:
    LoggingConfig().extra_fields["team"] = "a"
    assert LoggingConfig().extra_fields == {}


def test_the_limits_of_the_segments_are_handed_on() -> None:
    config = LoggingConfig(segment_bytes=4096, max_age_s=60, max_total_bytes=8192)
    assert config.retention == Retention(4096, 60.0, 8192)
    assert LoggingConfig().retention == Retention()


def test_a_backends_limits_are_a_share_of_what_the_instance_keeps() -> None:
    instance = LoggingConfig(max_age_s=100.0, max_total_bytes=10_000_000)
    backend = LoggingConfig(max_total_bytes=5000, segment_bytes=4096).within(instance)
    assert backend.retention == Retention(4096, 100.0, 10_000_000, Share(100.0, 5000))
    assert pickle.loads(pickle.dumps(backend)).retention == backend.retention
    assert instance.retention == Retention(64 * 1024 * 1024, 100.0, 10_000_000)
