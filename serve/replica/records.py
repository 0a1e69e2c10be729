"""All that a replica's process writes: its segments, what captures its words, its trail."""

from __future__ import annotations

import os

from observability.fields import Component
from observability.instrument.capture import install
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.numbers import process_numbers
from observability.instrument.segments import SegmentWriter
from observability.instrument.thread_context import carry_into_threads
from serve.replica.metrics import ReplicaMetrics
from serve.replica.trail import ReplicaTrail


class ReplicaRecords:
    """Made before the user's code is loaded, so that nothing it says is missed.

    Args:
        folder: of the segments.
        backend_tag: its backend.
        replica_tag: the replica.
        node: address of its node.
        config: what is recorded, and how.

    Attributes:
        static: fields of all records of this process.
        folder: of the segments.
        writer: writes them.
    """

    def __init__(
        self, folder: str, backend_tag: str, replica_tag: str, node: str, config: LoggingConfig
    ) -> None:
        self.static = static = {
            "component": Component.SERVE.value,
            "backend": backend_tag,
            "replica": replica_tag,
            "node": node,
            "pid": os.getpid(),
        }
        self.folder = folder
        self.writer = writer = SegmentWriter(folder, f"replica_{replica_tag}", config.retention)
        self._capture = install(writer, static, config, streams=True)
        self._stop_carrying = carry_into_threads()
        self.metrics = ReplicaMetrics(backend_tag, replica_tag, lambda: self._capture.counts)
        process_numbers.join(self.metrics.collect)
        self.trail = ReplicaTrail(writer, static, self.metrics, config)

    def configure(self, config: LoggingConfig) -> None:
        """Take another configuration; the next record follows it."""
        self._capture.configure(config)
        self.trail.configure(config)

    def attach(self) -> None:
        """Capture again what user code may have let go."""
        self._capture.attach()

    def end(self) -> None:
        """Write everything, and each record at once from now on. The process ends next."""
        self._capture.end()

    def close(self) -> None:
        """Write everything and let go of all that was taken: the process goes on."""
        process_numbers.leave(self.metrics.collect)
        self._stop_carrying()
        self._capture.close()
