"""What an ingress's process writes: the requests that no replica tells of, and its own log."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from observability.fields import Component
from observability.instrument import tracing
from observability.instrument.access import AccessRecord
from observability.instrument.access_log import AccessLog
from observability.instrument.capture import install
from observability.instrument.logging_config import LoggingConfig
from observability.instrument.numbers import Family
from observability.instrument.segments import SegmentWriter
from observability.instrument.supervision import watch_task
from observability.instrument.traceparent import parse_traceparent
from serve.ids import make_request_id
from serve.ingress.figures import IngressFigures
from serve.ingress.loglines import LogLine, is_cut, parse_line, to_record
from serve.ingress.replicas import Replicas
from serve.ingress.strays import LostLines, StraySampler, find_stray, stray_retention

logger = logging.getLogger("ray.serve")

CUT = "record of an answer that was cut"


class IngressRecords:
    """One for each ingress.

    Args:
        folder: of the segments.
        node: address of its node.
        config: the instance's.
        figures: counts what is recorded.

    Attributes:
        static: fields of all records of this process.
        replicas: told of those that the ingress serves.
    """

    def __init__(
        self,
        folder: str,
        node: str,
        config: LoggingConfig,
        figures: IngressFigures,
    ) -> None:
        self.static = static = {
            "component": Component.INGRESS.value,
            "node": node,
            "pid": os.getpid(),
        }
        writer = SegmentWriter(folder, f"ingress_{node}", config.retention)
        self._capture = install(writer, static, config, streams=False)
        fields = {**static, **config.extra_fields}
        self._access = AccessLog(writer, fields)
        self._strays = SegmentWriter(folder, f"ingress_{node}_strays", stray_retention(config))
        self._strays.encode_gap = writer.encode_gap
        self._strays.start()
        self._stray_access = AccessLog(self._strays, fields)
        self._sampler = StraySampler(time.monotonic)
        self._lost = LostLines()
        self._figures = figures
        self._config = config
        self.replicas = Replicas()
        self._asking: set[asyncio.Task[None]] = set()

    def take_line(self, data: bytes) -> None:
        """Record and count what a line of HAProxy's tells, unless a replica does."""
        stray = find_stray(data)
        if stray is not None and not self._sampler.takes():
            self._figures.count(stray)
            return
        line = parse_line(data)
        if line is None:
            return
        replica = self.replicas.tag_of(line.server)
        record = to_record(
            line, make_request_id(), has_client=self._config.client_address, replica=replica
        )
        if record is None:
            return
        if is_cut(line):
            asking = asyncio.get_running_loop().create_task(self._take_cut(line, record))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            watch_task(CUT, asking)
            return
        self._take(line, record, is_stray=stray is not None)

    async def _take_cut(self, line: LogLine, record: AccessRecord) -> None:
        """A replica that lives ended its answer itself, and has told of it."""
        if not await self.replicas.is_alive(line.server):
            self._take(line, record)

    def _take(self, line: LogLine, record: AccessRecord, *, is_stray: bool = False) -> None:
        self._figures.count(record)
        tracing.end_at_ingress(record, parse_traceparent(line.traceparent))
        if self._config.access_log:
            (self._stray_access if is_stray else self._access).write(record)

    def take_dropped(self, worker: str, dropped: int) -> None:
        """Hear how many lines a worker of HAProxy's could not write; tell what has no record."""
        if fresh := self._lost.see(worker, dropped):
            logger.warning(
                "HAProxy could not hand over %d log lines: those requests have no access record "
                "of the ingress and are not counted. They came faster than this process reads.",
                fresh,
            )
        if left_out := self._sampler.tell():
            logger.warning(left_out)

    def families(self) -> list[Family]:
        """The ingress's metrics as they are now."""
        written, dropped = self._capture.counts
        return self._figures.families(
            written + self._strays.written,
            dropped + self._strays.dropped + self._lost.count,
            self._sampler.left_out,
        )

    def end(self) -> None:
        """Write everything, and each record at once from now on. The process ends next."""
        self._capture.end()
        self._strays.write_through()
