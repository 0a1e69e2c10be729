"""One request. Pure."""

from __future__ import annotations

from observability.grafana.records import (
    REQUEST_ID,
    Board,
    Panel,
    Row,
    View,
    lines,
)

BOARD = Board(
    "request",
    "Tagtrail / Request trail",
    "One request through all its replicas. Its id is in the answer's X-Request-ID header.",
    (REQUEST_ID,),
    (
        Row(
            "The request",
            (
                Panel(
                    "As a tree",
                    "In a terminal on the cluster:\n\n    tagtrail trace $request_id",
                    view=View.TEXT,
                    width=24,
                ),
                lines(
                    "Its steps",
                    "One access record a step: which replica, how it ended, how long it took.",
                    '{job="serve"} | request_id="$request_id" | kind="access" | json'
                    ' | line_format "{{.way}} {{.method}} {{.path}} {{.status}}'
                    " {{.replica}} waited {{.queue_ms}} ms,"
                    ' ran {{.processing_ms}} ms {{.error}}"',
                ),
                lines(
                    "All that was said",
                    "By every replica that worked for it, in the order of time; also in a batch.",
                    '{job="serve"} |= "$request_id"',
                ),
            ),
        ),
    ),
)
