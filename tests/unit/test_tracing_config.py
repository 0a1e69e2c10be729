"""What OpenTelemetry's variables say, and which traces a sampler takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from observability.instrument.sampling import Sampler, make_sampler
from observability.instrument.tracing_config import TracingConfig, parse_tracing
from serve.settings import adopt_tracing, tracing_variables

ON = {"OTEL_TRACES_EXPORTER": "otlp"}
HALF = 1 << 63


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": " "},
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://here"},
        {**ON, "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"},
    ],
    ids=str,
)
def test_traces_are_off_unless_asked_for(variables: dict[str, str]) -> None:
    assert parse_tracing(variables) is None
    assert tracing_variables(variables) == {}


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        (ON, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here"}, ("otlp_proto_http",)),
        ({**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ("otlp_proto_grpc",)),
        (
            {
                **ON,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ("otlp_proto_http",),
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ("console", "otlp_proto_http")),
    ],
    ids=str,
)
def test_the_variables_name_the_exporters(
    variables: dict[str, str], exporters: tuple[str, ...]
) -> None:
    config = parse_tracing(variables)
    assert config is not None and config.exporters == exporters


def test_defaults_are_those_of_the_specification() -> None:
    assert parse_tracing(ON) == TracingConfig(
        ("otlp_proto_http",), Sampler(1 << 64, follows_parent=True), 2048, 512, 5.0, ()
    )


def test_a_batch_is_not_larger_than_the_queue() -> None:
    config = parse_tracing({**ON, "OTEL_BSP_MAX_QUEUE_SIZE": "10"})
    assert config is not None and (config.queue_size, config.batch_size) == (10, 10)


@pytest.mark.parametrize("text", ["-1", "0", "many", "1.5", "²"])
def test_a_number_that_cannot_be_read_is_told_and_the_default_holds(text: str) -> None:
    config = parse_tracing({**ON, "OTEL_BSP_SCHEDULE_DELAY": text})
    assert config is not None and config.delay_s == 5.0
    (complaint,) = config.complaints
    assert complaint == f"OTEL_BSP_SCHEDULE_DELAY={text!r} is no number above 0: 5000 holds"


@pytest.mark.parametrize(
    ("name", "argument"), [("sometimes", ""), ("traceidratio", "2"), ("traceidratio", "half")]
)
def test_a_sampler_that_is_none_is_told_and_all_traces_are_exported(
    name: str, argument: str
) -> None:
    config = parse_tracing({**ON, "OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
    assert config is not None and config.sampler == Sampler()
    assert config.complaints[0].startswith(f"OTEL_TRACES_SAMPLER={name!r}: ")


@pytest.mark.parametrize(
    ("name", "argument", "sampler"),
    [
        ("always_on", "", Sampler(1 << 64, False)),
        ("always_off", "", Sampler(0, False)),
        ("traceidratio", "0.5", Sampler(HALF, False)),
        ("parentbased_traceidratio", "0.5", Sampler(HALF, True)),
        ("parentbased_always_off", "", Sampler(0, True)),
        ("traceidratio", "", Sampler(1 << 64, False)),
    ],
)
def test_samplers_have_the_names_of_the_specification(
    name: str, argument: str, sampler: Sampler
) -> None:
    assert make_sampler(name, argument) == sampler


@pytest.mark.parametrize(
    ("follows", "parent", "expected"),
    [(True, True, True), (True, False, False), (True, None, False), (False, True, False)],
)
def test_a_callers_decision_goes_before_if_the_sampler_follows_it(
    follows: bool, parent: bool | None, expected: bool
) -> None:
    assert Sampler(0, follows).decide("f" * 32, parent) is expected


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
def test_a_share_takes_the_traces_that_opentelemetry_takes(trace_id: int, share: float) -> None:
    theirs = TraceIdRatioBased(share).should_sample(None, trace_id, "").decision
    ours = make_sampler("traceidratio", str(share)).decide(f"{trace_id:032x}", None)
    assert ours is (theirs is Decision.RECORD_AND_SAMPLE)


def test_replicas_take_the_variables_over_but_keep_their_own() -> None:
    sent = tracing_variables({**ON, "OTEL_SERVICE_NAME": "all", "HOME": "/root"})
    assert sent == {**ON, "OTEL_SERVICE_NAME": "all"}
    own = {"OTEL_SERVICE_NAME": "this one"}
    assert adopt_tracing(sent, own) is not None
    assert own == {**ON, "OTEL_SERVICE_NAME": "this one"}
