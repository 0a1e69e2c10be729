"""The one place of `observability` that reads the environment.

| variable | meaning |
| --- | --- |
| `RAY_TMPDIR` | folder of Ray's sessions (Ray's own variable); default `/tmp/ray` |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from observability.fields import SEGMENT_FOLDER


def last_session_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The segments of the session that Ray began last on this machine."""
    base = Path(environ.get("RAY_TMPDIR") or "/tmp")
    return base / "ray" / "session_latest" / "logs" / SEGMENT_FOLDER
