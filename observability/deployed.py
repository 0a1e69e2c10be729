"""Where `deploy/`, the files for foreign programs, is: in a checkout, or inside the package."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def deploy_folder() -> Path:
    """The folder. FileNotFoundError: the installation is not whole."""
    for folder in (_HERE / "deploy", _HERE.parent / "deploy"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{_HERE / 'deploy'} is missing: it comes with the wheel. Install tagtrail again."
    )
