"""Lines of records as Loki's push API wants them. Pure.

https://grafana.com/docs/loki/latest/reference/loki-http-api/#ingest-logs
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from observability.loki.words import FOREIGN_JOB, JOB, LABELS, METADATA, to_ns

# The fields that are not part of the line only; others are not even looked at.
_Known: Any = msgspec.defstruct(
    "_Known", [("time", str), *((name, Any, None) for name in (*LABELS, *METADATA))]
)
_decode = msgspec.json.Decoder(_Known).decode
_encode = msgspec.json.encode


def encode_push(lines: Iterable[bytes], labels: Mapping[str, str]) -> bytes:
    """The body of one push: the lines by their streams, each with its time and its metadata.

    Args:
        lines: records as the segments have them.
        labels: of all of them; `job` and those that are fields of a record join them.
    """
    streams: dict[tuple[Any, ...], list[Any]] = {}
    for line in lines:
        record = _decode(line)
        own = tuple(getattr(record, name) for name in LABELS)
        metadata = {n: str(v) for n in METADATA if (v := getattr(record, n)) is not None}
        entry = (str(to_ns(record.time)), line.decode().rstrip("\n"), metadata)
        streams.setdefault(own, []).append(entry)
    return _encode(
        {
            "streams": [
                {"stream": _labels_of(own, labels), "values": values}
                for own, values in streams.items()
            ]
        }
    )


def _labels_of(own: tuple[Any, ...], labels: Mapping[str, str]) -> dict[str, str]:
    given = {name: str(value) for name, value in zip(LABELS, own, strict=True) if value}
    # Only processes of Tagtrail's have components.
    job = JOB if "component" in given else FOREIGN_JOB
    return {"job": job, **labels, **given}
