"""What the toolkit uses of Ray that Ray does not promise to keep. Nothing else of ours does."""

from __future__ import annotations

from typing import Any

from observability.instrument.foreign import missing, take


def ray_node() -> Any:
    """The node that this process is connected to, or None."""
    return take("ray", "ray._private.worker", "_global_node", "find the folders of Ray's session")


def record_metric(instrument: Any, value: float, labels: dict[str, str]) -> None:
    """Hand a number to one of `ray.util.metrics`, past checks that cost more than the rest.

    Raises:
        ForeignNameError: Ray keeps it elsewhere.
    """
    inner = getattr(instrument, "_metric", None)
    if inner is None:
        raise missing("ray", f"{type(instrument).__name__}._metric", "export metrics through it")
    inner.record(value, labels)
