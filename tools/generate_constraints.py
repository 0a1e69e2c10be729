"""Writes constraints.txt: the exact versions, as installed here, of all that Tagtrail pulls in.

    python tools/generate_constraints.py

Run it in the environment whose tests passed. A version that does not install on every Python that
Tagtrail supports gets a marker; where that one does not hold, pip chooses.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = ("demo", "grafana", "tracing", "dev")
HEAD = """\
# The versions that Tagtrail's tests passed with, on Python {python}. CONTRIBUTING.md says how to
# renew them: this file is written by tools/generate_constraints.py. A version that does not install
# on all of Python 3.10 to 3.13 has a marker; there, and for what only others need, pip chooses.
"""


def closure(name: str, extras: tuple[str, ...]) -> set[str]:
    """Canonical names of all that a distribution pulls in here."""
    found: set[str] = set()
    waiting = [(name, extras)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for text in metadata.requires(one[0]) or ():
            required = Requirement(text)
            marker = required.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in ("", *one[1])):
                continue
            found.add(canonicalize_name(required.name))
            waiting.append((required.name, tuple(sorted(required.extras))))
    return found


def constraint(name: str) -> str:
    """The line of one distribution."""
    distribution = metadata.distribution(name)
    allowed = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
    fitting = [python for python in PYTHONS if allowed.contains(f"{python}.99")]
    marker = "" if fitting == list(PYTHONS) else f'; python_version >= "{fitting[0]}"'
    return f"{name}=={distribution.version}{marker}"


def main() -> None:
    """Write the file."""
    names = sorted(closure("tagtrail", EXTRAS) - {"tagtrail"})
    lines = [constraint(name) for name in names]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    path = ROOT / "constraints.txt"
    path.write_text(HEAD.format(python=python) + "\n".join(lines) + "\n")
    print(f"wrote {path.name}: {len(lines)} versions")


if __name__ == "__main__":
    main()
