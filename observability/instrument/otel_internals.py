"""What is used of OpenTelemetry that it does not promise to keep. Nothing else of ours does."""

from __future__ import annotations

from observability.instrument.foreign import take

SPAN_KEY: str = take(
    "opentelemetry-api",
    "opentelemetry.trace.propagation",
    "_SPAN_KEY",
    "make a request's step the current span",
)
"""Where a context has its span: what set_span_in_context() uses."""

SUPPRESS_KEY: str = take(
    "opentelemetry-api",
    "opentelemetry.context",
    "_SUPPRESS_INSTRUMENTATION_KEY",
    "keep the export of spans out of the traces",
)
"""Set in a context whose work is not to be traced."""
