"""`.ci/run` itself, with a `make` that does as it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

MAKE = """#!/usr/bin/env bash
echo "made $*"
if [[ $* == test ]]; then mkdir -p test-results && {test}; fi
"""

pytestmark = pytest.mark.slow


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    """The script in a folder where `make test` does this."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    make = folder / "make"
    make.write_text(MAKE.format(test=test))
    make.chmod(0o755)
    return subprocess.run(
        [folder / ".ci" / "run"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_its_last_lines_name_what_was_unsteady(tmp_path: Path) -> None:
    done = run(tmp_path, "echo 'UNSTEADY: tests/a.py::x' > test-results/unsteady.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == ["All steps passed.", "UNSTEADY: tests/a.py::x"]


def test_a_step_that_fails_fails_the_run_and_the_others_go_on(tmp_path: Path) -> None:
    done = run(tmp_path, "false")
    assert done.returncode == 1
    assert "made wheel-test" in done.stdout
    assert done.stdout.splitlines()[-1] == "FAILED: make test"


def test_what_an_earlier_run_found_unsteady_is_not_told_again(tmp_path: Path) -> None:
    (tmp_path / "test-results").mkdir()
    (tmp_path / "test-results" / "unsteady.txt").write_text("UNSTEADY: long ago\n")
    done = run(tmp_path, "true")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "All steps passed."
