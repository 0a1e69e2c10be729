"""Names inside other packages that those do not promise to keep: what is said when one is gone.

Each package's are used in one file of ours: `ray_internals.py`, `otel_internals.py` and, in the
serving core, `ray_internals.py` and `replica/uvicorn_internals.py`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TESTED = {"ray": "2.60.0", "uvicorn": "0.54.0", "opentelemetry-api": "1.45.2"}
"""The versions that Tagtrail was tested with; those of constraints.txt, as a test holds."""


class ForeignNameError(ImportError):
    """Another package lacks what Tagtrail needs of it."""


def missing(package: str, name: str, purpose: str) -> ForeignNameError:
    """The error of a name that is gone.

    Args:
        package: the distribution, a key of TESTED.
        name: what is gone, in full.
        purpose: what for it is needed, after "to".
    """
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = "of unknown version"
    tested = TESTED[package]
    return ForeignNameError(
        f"{package} {installed} has no {name}, which Tagtrail needs to {purpose}. It was tested "
        f"with {package} {tested}: pip install '{package}=={tested}', or look for a Tagtrail that "
        "knows the installed one."
    )


def take(package: str, module: str, name: str, purpose: str) -> Any:
    """A name of another package's module.

    Args:
        package: the distribution, a key of TESTED.
        module: where the name is.
        name: of the module.
        purpose: what for it is needed, after "to".

    Raises:
        ForeignNameError: it is gone; names what is installed, what was tested and the next step.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise missing(package, f"{module}.{name}", purpose) from error
