"""Folders of the Ray session that this process belongs to."""

from __future__ import annotations

import os

from ray._private import worker

from observability.fields import SEGMENT_FOLDER


def segment_folder() -> str:
    """Where the segments of this node are: `<Ray's session>/logs/serve`."""
    node = worker._global_node
    assert node is not None  # only asked in Ray's own processes
    return os.path.join(node.get_logs_dir_path(), SEGMENT_FOLDER)
