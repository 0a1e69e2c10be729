"""The way of the records to Loki. Pure."""

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


def _still_to_read() -> tuple[Query, ...]:
    return tuple(
        Query(
            f"sum by (instance) ({agent}_file_bytes_total - {agent}_read_bytes_total)",
            name + " {{instance}}",
        )
        for agent, name in (("promtail", "Promtail"), ("loki_source_file", "Alloy"))
    )


def _of_agents(counter: str) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"sum by (instance) (rate({agent}_{counter}[$__rate_interval]))",
            name + " {{instance}}",
        )
        for agent, name in (("promtail", "Promtail"), ("loki_write", "Alloy"))
    )


BOARD = Board(
    "pipeline",
    "Tagtrail / Log pipeline",
    "From the segments to Loki: is everything written, read, sent and kept?",
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
            ),
        ),
        Row(
            "Read and sent",
            (
                Panel(
                    "Still to read",
                    "Bytes in the segments that the agent has not read.",
                    _still_to_read(),
                    "bytes",
                ),
                Panel(
                    "Sent/s",
                    "Entries that the agent has sent to Loki.",
                    _of_agents("sent_entries_total"),
                    "cps",
                ),
                Panel(
                    "Given up/s",
                    "Entries that Loki did not take.",
                    _of_agents("dropped_entries_total"),
                    "cps",
                ),
            ),
        ),
        Row(
            "Kept",
            (
                Panel(
                    "Lines/s that Loki takes",
                    "Should follow what is written.",
                    (
                        Query(
                            "sum(rate(loki_distributor_lines_received_total[$__rate_interval]))",
                            "lines",
                        ),
                    ),
                    "cps",
                ),
                Panel(
                    "Refused/s by reason",
                    "rate_limited: raise limits_config.ingestion_rate_mb.",
                    (
                        Query(
                            "sum by (reason) "
                            "(rate(loki_discarded_samples_total[$__rate_interval]))",
                            "{{reason}}",
                        ),
                    ),
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
