"""Programs of the pipeline for tests: a test whose program is absent is skipped with the reason.

With `TAGTRAIL_REQUIRE_TOOLS=1`, as in CI, it fails instead.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from observability.stack.programs import Program, find_program


def require(program: Program) -> Path:
    try:
        return find_program(program)
    except FileNotFoundError as error:
        if os.environ.get("TAGTRAIL_REQUIRE_TOOLS") == "1":
            raise
        pytest.skip(str(error))
