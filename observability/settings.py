"""The one place of `observability` that reads the environment.

| variable | meaning |
| --- | --- |
| `RAY_TMPDIR` | where the folder `ray` of Ray's sessions is (Ray's own variable) |
| `TMPDIR` | the same, on Linux and without `RAY_TMPDIR`; default `/tmp` |
| `TAGTRAIL_<NAME>_BIN` | file of a program of the pipeline: `TAGTRAIL_PROMETHEUS_BIN` |
| `XDG_STATE_HOME` | `tagtrail stack` keeps its folder in its `tagtrail`; default `~/.local/state` |
| `XDG_CACHE_HOME` | programs that `make tools` built are in its `tagtrail`; default `~/.cache` |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from observability.fields import SEGMENT_FOLDER


def last_session_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The segments of the session that Ray began last on this machine."""
    return ray_folder(environ) / "session_latest" / "logs" / SEGMENT_FOLDER


def ray_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where Ray has its sessions, unless it was started with `--temp-dir`."""
    base = environ.get("RAY_TMPDIR")
    if base is None and sys.platform.startswith("linux"):
        base = environ.get("TMPDIR")
    return Path("/tmp" if base is None else base) / "ray"


def stack_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where `tagtrail stack` has data, logs and what runs: the user's own, and not lost at boot."""
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "tagtrail" / "stack"


def program_variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that name the files of programs."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith("TAGTRAIL_") and name.endswith("_BIN")
    }


def program_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where programs of the pipeline are that were built on this machine."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tagtrail"
