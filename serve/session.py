"""Folders of the Ray session that this process belongs to."""

from __future__ import annotations

import os

from observability.fields import SEGMENT_FOLDER
from observability.instrument.ray_internals import ray_node


def session_folder() -> str:
    """Ray's folder of this session on this node: `/tmp/ray/session_<date>_<pid>`, usually."""
    node = ray_node()
    assert node is not None  # only asked in Ray's own processes
    folder: str = node.get_session_dir_path()
    return folder


def segment_folder() -> str:
    """Where the segments of this node are: `<Ray's session>/logs/serve`."""
    return os.path.join(session_folder(), "logs", SEGMENT_FOLDER)
