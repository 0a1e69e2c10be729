"""All dashboards."""

from __future__ import annotations

from observability.grafana import backend, canary, overview, pipeline, replica, request

BOARDS = (
    overview.BOARD,
    backend.BOARD,
    replica.BOARD,
    request.BOARD,
    pipeline.BOARD,
    canary.BOARD,
)
