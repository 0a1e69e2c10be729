"""The command `tagtrail`: in this process, or as typed; and what else a reader types.

A process of its own imports Ray and connects, which takes 3 to 4 s. So each verb is typed once, and
what it does otherwise is asked of it in this process, which is connected already.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray
from click.testing import CliRunner
from ray._private import worker

from serve.command.cli import cli
from tests.integration.processes import ROOT, script_env


def tagtrail(*args: str, columns: int = 160) -> subprocess.CompletedProcess[str]:
    """Run the command in this process; on the Ray that it is connected to, if it needs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", _is_connected)
        patch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # it is replaced
        runner = CliRunner(env={"COLUMNS": str(columns)}, catch_exceptions=False)
        done = runner.invoke(cli, args, prog_name="tagtrail")
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


def typed_tagtrail(
    *args: str, timeout_s: float = 120, columns: int = 160
) -> subprocess.CompletedProcess[str]:
    """Run it as a shell does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "serve", *args],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=script_env({"COLUMNS": str(columns)}),
        cwd=ROOT,
        check=False,
    )


def type_in(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a line of a page as its reader types it, in the project's folder; it has 180 s."""
    return subprocess.run(
        ["bash", "-c", command],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def _is_connected(**_: object) -> None:
    assert ray.is_initialized(), "the test needs the session's cluster: ask for 'ray_address'"
