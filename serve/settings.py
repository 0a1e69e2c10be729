"""The one place of `serve` that reads the environment.

| variable | meaning |
| --- | --- |
| `TAGTRAIL_LOG_<FIELD>` | default of a field of LoggingConfig: `TAGTRAIL_LOG_LEVEL=DEBUG` |
| `SERVE_LOG_DEBUG` | `1`: as `TAGTRAIL_LOG_LEVEL=DEBUG` (Ray Serve 1.3) |
| `OTEL_...` | OpenTelemetry's own: whether, which and whereto traces go (docs/traces.md) |

They are read by the process that calls `serve.start()`; what that call is given goes before them.
The `OTEL_` ones go on to the replicas if they ask for traces; a variable that a replica's own
environment has goes before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from pydantic import ValidationError

from observability.instrument.logging_config import LoggingConfig
from observability.instrument.tracing_config import PREFIX, TracingConfig, parse_tracing

LOG_PREFIX = "TAGTRAIL_LOG_"


def read_logging_config(environ: Mapping[str, str] = os.environ) -> LoggingConfig:
    """What the environment says of logging.

    Raises:
        ValueError: a variable that no field has, or a value its field refuses; names it.
    """
    found: dict[str, Any] = {}
    if environ.get("SERVE_LOG_DEBUG") == "1":
        found["level"] = "DEBUG"
    for variable, text in environ.items():
        if not variable.startswith(LOG_PREFIX):
            continue
        name = variable.removeprefix(LOG_PREFIX).lower()
        if name not in LoggingConfig.model_fields:
            known = ", ".join(
                f"{LOG_PREFIX}{field.upper()}" for field in LoggingConfig.model_fields
            )
            raise ValueError(
                f"The environment variable {variable} is not known. There are: {known}."
            )
        found[name] = _read(text) if name == "extra_fields" else text
    try:
        return LoggingConfig(**found)
    except ValidationError as error:
        variable = f"{LOG_PREFIX}{str(error.errors()[0]['loc'][0]).upper()}"
        raise ValueError(
            f"The environment variable {variable}={environ.get(variable)!r} can't be used: "
            f"{error.errors()[0]['msg']}."
        ) from error


def read_tracing(environ: Mapping[str, str] = os.environ) -> TracingConfig | None:
    """What the environment says of traces; None: they are off."""
    return parse_tracing(environ)


def tracing_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that the replicas need for the same traces; none when they are off."""
    if parse_tracing(environ) is None:
        return {}
    return {name: value for name, value in environ.items() if name.startswith(PREFIX)}


def adopt_tracing(
    variables: Mapping[str, str], environ: MutableMapping[str, str] = os.environ
) -> TracingConfig | None:
    """Take variables over where the environment has none, for OpenTelemetry's own code reads it."""
    for name, value in variables.items():
        environ.setdefault(name, value)
    return parse_tracing(environ)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # refused by the field, with its own words
