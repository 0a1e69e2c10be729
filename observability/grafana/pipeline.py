"""The way of the records to their store. Pure."""

from __future__ import annotations

from observability import catalog
from observability.grafana.records import (
    Board,
    Panel,
    Query,
    Row,
    Source,
    rate,
)

Programs = tuple[tuple[str, str], ...]
"""What programs tell, each by its own name: (program, series)."""


STILL_TO_SEND = (
    ("Promtail", "promtail_file_bytes_total - promtail_read_bytes_total"),
    ("Alloy", "loki_source_file_file_bytes_total - loki_source_file_read_bytes_total"),
    ("vlagent", "vlagent_remotewrite_pending_data_bytes"),
)
SENT = (
    ("Promtail", "promtail_sent_entries_total"),
    ("Alloy", "loki_write_sent_entries_total"),
    ("vlagent", 'vl_rows_ingested_total{job="vlagent"}'),
)
GIVEN_UP = (
    ("Promtail", "promtail_dropped_entries_total"),
    ("Alloy", "loki_write_dropped_entries_total"),
    ("vlagent", 'vl_rows_dropped_total{job="vlagent"}'),
)
TAKEN = (
    ("Loki", "loki_distributor_lines_received_total"),
    ("VictoriaLogs", 'vl_rows_ingested_total{job="victoria-logs"}'),
)
REFUSED = (
    ("Loki", "loki_discarded_samples_total"),
    ("VictoriaLogs", 'vl_rows_dropped_total{job="victoria-logs"}'),
)


def _now(gauges: Programs) -> tuple[Query, ...]:
    return tuple(
        Query(f"sum by (instance) ({gauge})", name + " {{instance}}") for name, gauge in gauges
    )


def _rates(counters: Programs, by: str = "instance") -> tuple[Query, ...]:
    return tuple(
        Query(
            f"sum by ({by}) (rate({counter}[$__rate_interval]))",
            f"{name} {{{{{by}}}}}",
        )
        for name, counter in counters
    )


BOARD = Board(
    "pipeline",
    "Tagtrail / Log pipeline",
    "From the segments to the store: is everything written, read, sent and kept?",
    (),
    (
        Row(
            "Written",
            (
                Panel(
                    "Records/s",
                    "Into the segments, by component.",
                    (
                        Query(
                            rate(catalog.RECORDS_WRITTEN, by="component"),
                            "{{component}}",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "Records lost/s",
                    "Could not be written. Anything but 0 is a full disk, or worse.",
                    (
                        Query(
                            rate(catalog.RECORDS_DROPPED, by="component"),
                            "{{component}}",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "Records left out/s",
                    "Of requests that no endpoint takes, past 100 a second: a flood, or a scanner.",
                    (Query(rate(catalog.RECORDS_SAMPLED, by="component"), "{{component}}"),),
                    "cps",
                ),
                Panel(
                    "Spans lost/s",
                    "With traces on only: the collector is away, or too slow.",
                    (
                        Query(
                            rate(catalog.SPANS_DROPPED, by="component") + " or vector(0)",
                            "{{component}}",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "Failures of tasks/s",
                    "What a process does all the time failed, and is begun again: an error record "
                    "says why.",
                    (
                        Query(
                            rate(catalog.TASK_FAILURES, by="component, task"),
                            "{{component}} {{task}}",
                        ),
                    ),
                    "cps",
                ),
            ),
        ),
        Row(
            "Read and sent",
            (
                Panel(
                    "Still to send",
                    "Bytes in the segments that the agent has not read, or not yet sent.",
                    _now(STILL_TO_SEND),
                    "bytes",
                ),
                Panel(
                    "Sent/s",
                    "Entries that the agent has sent.",
                    _rates(SENT),
                    "cps",
                ),
                Panel(
                    "Given up/s",
                    "Entries that the store did not take.",
                    _rates(GIVEN_UP),
                    "cps",
                ),
            ),
        ),
        Row(
            "Kept",
            (
                Panel(
                    "Lines/s that the store takes",
                    "Should follow what is written.",
                    _rates(TAKEN),
                    "cps",
                ),
                Panel(
                    "Refused/s by reason",
                    "rate_limited: raise limits_config.ingestion_rate_mb of Loki.",
                    _rates(REFUSED, by="reason"),
                    "cps",
                ),
                Panel(
                    "Bytes by backend",
                    "Who fills the store.",
                    (
                        Query(
                            'sum by (backend) (bytes_over_time({job="serve"}[$__auto]))',
                            "{{backend}}",
                        ),
                    ),
                    "bytes",
                    source=Source.LOKI,
                ),
            ),
        ),
    ),
)
