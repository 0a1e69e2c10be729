"""What the records' fields are in Loki: labels, metadata, or part of the line. Pure."""

from __future__ import annotations

from datetime import datetime

from observability.fields import FIELDS, Role

JOB = "serve"
"""Label `job` of Tagtrail's records; `ray` is the text that Ray writes."""

FOREIGN_JOB = "python"
"""That of records which a PushHandler pushes outside of Tagtrail's processes."""

LABELS = tuple(field.name for field in FIELDS if field.role is Role.LABEL)
METADATA = tuple(field.name for field in FIELDS if field.role is Role.METADATA)

SECOND_NS = 1_000_000_000


def to_ns(time: str) -> int:
    """A record's time in nanoseconds since the epoch, as Loki wants it.

    Raises:
        ValueError: it is no time of a record.
    """
    seconds = int(datetime.fromisoformat(f"{time[:19]}+00:00").timestamp())
    return seconds * SECOND_NS + int(f"{time[20:-1]:0<9.9}")
