"""The segments of a running Ray cluster: this node's from its disk, the others' through Ray."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from observability.fields import SEGMENT_FOLDER
from observability.instrument.ray_internals import ray_node
from observability.trail.query import Query, Record
from observability.trail.segments import SegmentFolder, in_order, parse_lines, time_of

NODE_TIMEOUT_S = 10
STREAM_S = 0.2
"""How often Ray looks for more of a segment that is followed."""

WHOLE = -1
"""Instead of a number of lines from a segment's end."""


@dataclass
class RayNode:
    """Another node's segments, read through Ray's dashboard.

    Attributes:
        cluster: address of the Ray cluster: there may be several on this machine.
        node_id: Ray's id of the node.
        address: of the node, for messages.
        problems: what could not be read, for people.
        skipped: lines that could not be read.
    """

    cluster: str
    node_id: str
    address: str
    problems: list[str] = field(default_factory=list)
    skipped: int = 0

    def read(self, query: Query) -> Iterator[Record]:
        """The wanted records in the order of their time; none, and a problem, when it fails."""
        chains: dict[str, list[str]] = {}
        try:
            for name in self.list_segments():
                chains.setdefault(name.rsplit(".", 2)[0], []).append(name)
            streams = [in_order(self._read_all(names, query)) for names in chains.values()]
            yield from heapq.merge(*streams, key=time_of)
        except Exception as error:  # noqa: BLE001 - Ray's dashboard fails in many ways
            self.problems.append(
                f"Node {self.address} could not be read: {error} Its segments are in "
                f"{SEGMENT_FOLDER}/ of its Ray session's logs; Ray's dashboard must run to show "
                "them from here (ray start --head --include-dashboard=true)."
            )

    def list_segments(self) -> list[str]:
        """Names of its segments, in order. What Ray's log API raises when it fails."""
        from ray.util.state import list_logs  # 0.2 s, and most clusters have one node

        found: dict[str, list[str]] = list_logs(
            self.cluster,
            node_id=self.node_id,
            glob_filter=f"{SEGMENT_FOLDER}/*.log",
            timeout=NODE_TIMEOUT_S,
        )
        return sorted(name for names in found.values() for name in names)

    def stream(self, name: str, *, is_new: bool) -> Iterator[bytes]:
        """A segment's chunks as they are written, without an end.

        Args:
            name: of the segment.
            is_new: from its beginning; else from its last line: Ray can't begin after it.
        """
        tail = WHOLE if is_new else 1
        return self._get(name, tail, follow=True, _interval=STREAM_S)

    def _read_all(self, names: list[str], query: Query) -> Iterator[Record]:
        for name in names:
            for record in parse_lines(b"".join(self._get(name, WHOLE)).splitlines(), query):
                if record is None:
                    self.skipped += 1
                else:
                    yield record

    def _get(self, name: str, tail: int, **options: Any) -> Iterator[bytes]:
        from ray.util.state import get_log

        chunks: Any = get_log(
            self.cluster,
            node_id=self.node_id,
            filename=name,
            tail=tail,
            timeout=NODE_TIMEOUT_S,
            encoding=None,  # a chunk may end within a character
            **options,
        )
        return iter(chunks)


def cluster_folders() -> tuple[SegmentFolder, list[RayNode]]:
    """This node's segments, and those of the cluster's other machines. Ray must be connected."""
    here = SegmentFolder(Path(os.path.join(ray_node().get_logs_dir_path(), SEGMENT_FOLDER)))
    own_address = ray.util.get_node_ip_address()
    cluster = ray.get_runtime_context().gcs_address
    others = [
        RayNode(cluster, entry["NodeID"], entry["NodeManagerAddress"])
        for entry in ray.nodes()
        if entry["Alive"] and entry["NodeManagerAddress"] != own_address
    ]
    return here, others
