"""What OpenTelemetry's standard variables say of traces. Pure: takes them as a mapping.

`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_EXPORTER_*` are read by OpenTelemetry's
own code too; the names and defaults here are those of its specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from observability.instrument.sampling import Sampler, make_sampler

PREFIX = "OTEL_"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@dataclass(frozen=True, slots=True)
class TracingConfig:
    """How traces are exported.

    Attributes:
        exporters: names of OpenTelemetry's exporters, as packages register them (entry points
            `opentelemetry_traces_exporter`).
        sampler: which traces.
        queue_size: most spans that wait; the ones after that are dropped.
        batch_size: most spans that are sent at once; so many waiting are sent without delay.
        delay_s: longest wait of a span before it is sent, seconds.
        complaints: what could not be read, and what holds instead.
    """

    exporters: tuple[str, ...] = ("otlp_proto_http",)
    sampler: Sampler = Sampler()  # noqa: RUF009 - frozen
    queue_size: int = 2048
    batch_size: int = 512
    delay_s: float = 5.0
    complaints: tuple[str, ...] = ()


def parse_tracing(variables: Mapping[str, str]) -> TracingConfig | None:
    """The configuration; None when nothing asks for traces, or `OTEL_SDK_DISABLED` is `true`.

    A value that can't be read is complained of and its default holds, as the specification asks:
    nothing fails for its traces.
    """
    exporters = _read_exporters(variables)
    if not exporters or variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    reader = _Reader(variables)
    queue_size = reader.read_count("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    return TracingConfig(
        exporters,
        reader.read_sampler(),
        queue_size,
        min(queue_size, reader.read_count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        reader.read_count("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        tuple(reader.complaints),
    )


def _read_exporters(variables: Mapping[str, str]) -> tuple[str, ...]:
    names = [name.strip() for name in variables.get("OTEL_TRACES_EXPORTER", "").split(",")]
    names = [name for name in names if name]
    if not names and any(variables.get(endpoint) for endpoint in _ENDPOINTS):
        names = ["otlp"]
    # The extra `tracing` brings http/protobuf, which is the specification's default too.
    protocol = next((variables[name] for name in _PROTOCOLS if variables.get(name)), "")
    otlp = "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"
    return tuple(otlp if name == "otlp" else name for name in names if name != "none")


class _Reader:
    """Reads values, and notes which it could not read."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.complaints: list[str] = []

    def read_count(self, name: str, default: int) -> int:
        text = self._variables.get(name, "").strip()
        if not text:
            return default
        if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
        self.complaints.append(f"{name}={text!r} is no number above 0: {default} holds")
        return default

    def read_sampler(self) -> Sampler:
        name = self._variables.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        try:
            return make_sampler(
                name or "parentbased_always_on", self._variables.get("OTEL_TRACES_SAMPLER_ARG", "")
            )
        except ValueError as error:
            self.complaints.append(f"OTEL_TRACES_SAMPLER={name!r}: {error} All traces are exported")
            return Sampler()
