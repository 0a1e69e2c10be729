"""The wheel carries `deploy/`, the files for foreign programs, inside a package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.parent


class BuildWithDeploy(build_py):
    """Copies the folder into `observability/deploy`. An editable install reads it where it is."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "observability", "deploy")
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "deploy", target)
