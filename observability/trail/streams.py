"""What other nodes write from now on: Ray's dashboard streams each segment, a thread reads it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from observability.trail.query import Query, Record
from observability.trail.segments import parse_lines, time_of

T = TypeVar("T")

LIST_S = 2.0
"""How often a node is asked for new segments."""


class Node(Protocol):
    """A node whose segments can be listed and streamed; see `nodes.RayNode`."""

    address: str

    def list_segments(self) -> list[str]:
        """Names of its segments."""
        ...

    def stream(self, name: str, *, is_new: bool) -> Iterator[bytes]:
        """Chunks of a segment as they are written, without an end."""
        ...


class NodeStreams:
    """Follows nodes. Each thread ends with the process, or when its node is gone.

    Args:
        nodes: whom to follow.
        query: which records are wanted.
        begin: records before this time were there already.
    """

    def __init__(self, nodes: Iterable[Node], query: Query, begin: str) -> None:
        self._nodes = list(nodes)
        self._query = query
        self._begin = begin
        self._records: SimpleQueue[Record] = SimpleQueue()
        self._problems: SimpleQueue[str] = SimpleQueue()

    def start(self) -> None:
        """Begin to read."""
        for node in self._nodes:
            _start_thread(self._watch, node)

    def take(self) -> list[Record]:
        """The records that came since the last time, in the order of time."""
        return sorted(_drain(self._records), key=time_of)

    def take_problems(self) -> list[str]:
        """What could not be read since the last time, for people."""
        return list(_drain(self._problems))

    def _watch(self, node: Node) -> None:
        """Read each segment of a node, those that come later from their beginning."""
        known: set[str] = set()
        is_first, has_complained = True, False
        while True:
            try:
                names = set(node.list_segments())
            except Exception as error:  # noqa: BLE001 - Ray's dashboard fails in many ways
                if not has_complained:
                    self._problems.put(f"Node {node.address} can't be followed: {error}")
                has_complained = True
            else:
                for name in sorted(names - known):
                    _start_thread(self._read, node, name, not is_first)
                known |= names
                is_first, has_complained = False, False
            time.sleep(LIST_S)

    def _read(self, node: Node, name: str, is_new: bool) -> None:
        rest = b""
        try:
            for chunk in node.stream(name, is_new=is_new):
                *lines, rest = (rest + chunk).split(b"\n")
                for record in parse_lines(lines, self._query):
                    if record is not None and time_of(record) >= self._begin:
                        self._records.put(record)
        except Exception as error:  # noqa: BLE001 - the node may be gone
            self._problems.put(f"{name} of node {node.address} is not followed any more: {error}")


def _start_thread(run: Callable[..., None], *args: object) -> None:
    threading.Thread(target=run, args=args, name="tagtrail-follow", daemon=True).start()


def _drain(queue: SimpleQueue[T]) -> Iterator[T]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return
