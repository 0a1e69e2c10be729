"""Programs of the pipeline for tests: a test whose program is absent is skipped with the reason.

With `TAGTRAIL_REQUIRE_TOOLS=1`, as in CI, it fails instead, but for the programs that no test
installs: these are handed in with `TAGTRAIL_<NAME>_BIN` by whoever has them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from observability.stack.programs import find_program
from observability.stack.records import ALLOY, GRAFANA, LOKI, PROMTAIL, Program

HANDED_IN = (LOKI, PROMTAIL, ALLOY, GRAFANA)
"""Under the AGPL, or built of what is: neither fetched nor built here; docs/decisions.md."""

CHECK_LOGQL = Program("check-logql", ("check-logql",), "'make tools' installs it; it needs Node.")
"""A list of queries in, what Grafana's own grammar says of each out."""

KUSTOMIZE = Program("kustomize", ("kustomize",), "'make tools' builds it; it needs Go.")
"""A folder of deploy/kubernetes in, its objects out."""


def require(program: Program) -> Path:
    try:
        return find_program(program)
    except FileNotFoundError as error:
        if program not in HANDED_IN and os.environ.get("TAGTRAIL_REQUIRE_TOOLS") == "1":
            raise
        pytest.skip(str(error))
