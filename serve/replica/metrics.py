"""Placeholder until builder C's file is there."""


class ReplicaMetrics:
    """Placeholder."""

    def __init__(self, backend_tag: str, replica_tag: str) -> None:
        self.tags = (backend_tag, replica_tag)

    def finish(
        self,
        endpoint: str,
        route: str,
        way: str,
        status: int,
        queue_ms: float,
        processing_ms: float,
    ) -> None:
        """Placeholder."""
