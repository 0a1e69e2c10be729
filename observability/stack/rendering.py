"""The files of `deploy/` with other addresses and paths in them; pure.

As they lie there, they speak of the default ports and of `/tmp/ray`. A file in which nothing
differs is read where it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from observability.stack.services import default_ports

RAY_FOLDER = "/tmp/ray"
"""Where the files of `deploy/` look for Ray's sessions."""

DASHBOARD_FOLDER = "/var/lib/grafana/dashboards/tagtrail"
"""Where they look for Grafana's dashboards."""

_ADDRESS = re.compile(r"\b(127\.0\.0\.1|localhost):([0-9]{1,5})(?![0-9])")


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be said differently.

    Attributes:
        ports: new port of each default one that changes.
        paths: new path of each that changes.
    """

    ports: Mapping[int, int]
    paths: Mapping[str, str]


def changes_for(ports: Mapping[str, int], ray_folder: str, dashboards: str) -> Changes:
    """What differs from the files.

    Args:
        ports: port of every name.
        ray_folder: the folder in which Ray's `session_latest` is.
        dashboards: folder of the dashboards' JSON.
    """
    moved = {
        default: ports[name] for name, default in default_ports().items() if ports[name] != default
    }
    paths = {RAY_FOLDER: ray_folder, DASHBOARD_FOLDER: dashboards}
    return Changes(moved, {old: new for old, new in paths.items() if old != new})


def render(text: str, changes: Changes) -> str:
    """One file's text. All is changed at once: two programs may have changed their ports."""

    def address(match: re.Match[str]) -> str:
        port = int(match[2])
        return f"{match[1]}:{changes.ports.get(port, port)}"

    text = _ADDRESS.sub(address, text)
    if not changes.paths:
        return text
    names = "|".join(map(re.escape, changes.paths))
    # Whole names only: /tmp/ray is neither in /tmp/ray-of-mine nor in /var/tmp/ray.
    path = re.compile(rf"(?<![\w./-])({names})(?![\w-]|\.\w)")
    return path.sub(lambda match: changes.paths[match[1]], text)


def render_files(files: Mapping[str, str], changes: Changes) -> dict[str, str] | None:
    """All files of a folder, by name; None when they can be read where they are."""
    rendered = {name: render(text, changes) for name, text in files.items()}
    return None if rendered == dict(files) else rendered
