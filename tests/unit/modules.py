"""A module of this repository, run as a command in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run_module(folder: Path, module: str, *args: str) -> subprocess.CompletedProcess[str]:
    """`python -m module args` in a folder; what it says on stderr is in its stdout."""
    return subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=folder,
        # Plugins that none of these tests need take pytest most of its time.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
