"""Who this process is: the fields of all its records, for whoever else makes records of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOBODY: Mapping[str, Any] = {}
_fields = _NOBODY


def set_origin(fields: Mapping[str, Any]) -> None:
    """What all records of this process carry from now on; nothing: it is none of Tagtrail's."""
    global _fields
    _fields = dict(fields) if fields else _NOBODY


def read_origin() -> Mapping[str, Any]:
    """Those fields: the same object until they change; empty outside of Tagtrail's processes."""
    return _fields
