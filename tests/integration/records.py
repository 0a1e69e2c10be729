"""Reads what was recorded, as bytes first: a line that is no JSON is seen, not skipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from observability.fields import SEGMENT_PATTERN
from serve.session import segment_folder

Record = dict[str, Any]

_decode = msgspec.json.Decoder().decode


def segments(name: str = "") -> list[Path]:
    """The session's segments whose file name contains `name`, oldest first."""
    paths = [p for p in Path(segment_folder()).iterdir() if re.fullmatch(SEGMENT_PATTERN, p.name)]
    return sorted(path for path in paths if name in path.name)


def read_records(
    is_wanted: Callable[[Record], bool] = lambda record: True,
    *,
    name: str = "",
    may_end_half: str = "",
) -> list[Record]:
    """The wanted records of all segments, by file; AssertionError for a line that is none.

    Args:
        is_wanted: whether a record is.
        name: what file names must contain.
        may_end_half: in files whose name contains this, the last line may be cut off: the process
            was killed.
    """
    found = []
    for path in segments(name):
        lines = path.read_bytes().split(b"\n")
        if lines.pop():
            assert may_end_half and may_end_half in path.name, f"{path.name} ends without a newline"
        for line in lines:
            try:
                record = _decode(line)
            except msgspec.DecodeError as error:
                raise AssertionError(f"{path.name} holds {line!r}: {error}") from None
            assert isinstance(record, dict), f"{path.name} holds {line!r}"
            if is_wanted(record):
                found.append(record)
    return found
