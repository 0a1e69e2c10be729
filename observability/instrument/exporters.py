"""OpenTelemetry's exporters: found by the names of `OTEL_TRACES_EXPORTER`, fed with batches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points

from opentelemetry.context import attach, set_value
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from observability.instrument.otel_internals import SUPPRESS_KEY
from observability.instrument.spans import SpanMaker, SpanSource

SHARE = 0.2
"""Most of a processor that exporting takes; what it does not get through is dropped."""

SLICE_S = 0.0005

GROUP = "opentelemetry_traces_exporter"
"""Entry points under which packages register their exporters."""


def load_exporters(names: Sequence[str]) -> list[SpanExporter]:
    """The exporters of these names; they read their `OTEL_*` variables by themselves.

    Raises:
        LookupError: no package that is installed has one of that name.
        Exception: what an exporter raises when a variable is wrong.
    """
    found = []
    for name in names:
        registered = next(iter(entry_points(group=GROUP, name=name)), None)
        if registered is None:
            raise LookupError(
                f"no exporter '{name}' is installed. 'pip install tagtrail[tracing]' brings "
                "otlp_proto_http, the package opentelemetry-exporter-otlp-proto-grpc the one for "
                "grpc"
            )
        found.append(registered.load()())
    return found


class Pace:
    """Keeps a thread to SHARE of a processor, in slices.

    An exporter takes 50 microseconds to encode a span. In one go, 500 of them would hold the
    interpreter's lock for 25 ms, in which each system call of the event loop would wait 5 ms
    (`sys.getswitchinterval()`) to get it back; and without a limit a busy replica would spend as
    much on its spans as on its requests.
    """

    def __init__(self) -> None:
        self._begun = time.thread_time()

    def rest(self) -> None:
        """Sleep, if a slice is used up."""
        spent = time.thread_time() - self._begun
        if spent >= SLICE_S:
            time.sleep(spent * (1 - SHARE) / SHARE)
            self._begun = time.thread_time()


class PacedSpans(list[ReadableSpan]):
    """Spans that keep whoever goes through them to a pace."""

    def __init__(self, spans: Iterable[ReadableSpan], pace: Pace) -> None:
        super().__init__(spans)
        self._pace = pace

    def __iter__(self) -> Iterator[ReadableSpan]:
        for span in super().__iter__():
            self._pace.rest()
            yield span


class Exports:
    """Hands batches to exporters, in the queue's thread.

    Args:
        exporters: they may block, fail and raise.
        maker: makes the spans.
    """

    def __init__(self, exporters: Sequence[SpanExporter], maker: SpanMaker) -> None:
        self._exporters = exporters
        self._maker = maker
        self._hush = _Hush()
        for module in {base.__module__ for e in exporters for base in type(e).__mro__}:
            if module.startswith("opentelemetry."):
                logging.getLogger(module).addFilter(self._hush)

    def __call__(self, sources: Sequence[SpanSource], /) -> tuple[int, str]:
        """Send a batch; how many spans were lost, and why."""
        if self._hush.thread_id is None:
            self._hush.thread_id = threading.get_ident()
            # So that a library which makes spans of HTTP requests leaves the exporter's alone.
            attach(set_value(SUPPRESS_KEY, True))
        pace = Pace()
        spans = PacedSpans((), pace)
        for source in sources:
            spans += self._maker.make(source)
            pace.rest()
        self._hush.reason = ""
        is_sent = [
            exporter.export(spans) is SpanExportResult.SUCCESS for exporter in self._exporters
        ]
        if all(is_sent):
            return 0, ""
        failed = type(self._exporters[is_sent.index(False)]).__name__
        return len(spans), self._hush.reason or f"{failed} could not export them"

    def close(self) -> None:
        """Close the exporters."""
        for exporter in self._exporters:
            exporter.shutdown()


class _Hush(logging.Filter):
    """Keeps what exporters say of each failed try in the queue's thread: it is told once."""

    def __init__(self) -> None:
        super().__init__()
        self.thread_id: int | None = None
        self.reason = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self.thread_id:
            return True
        self.reason = self.reason or record.getMessage()
        return False
