"""A station's checks as rows of data: the first one that applies is what was found there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from observability.doctor.findings import Finding, Outcome, Station

Look = TypeVar("Look")
"""What was seen of a station, a frozen record."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Look]):
    """One thing that a look may show.

    `detail`, `cause` and `step` are those of the finding; `{name}` in them is the look's attribute
    of that name, `{page.url}` that attribute's.

    Attributes:
        applies: whether the look shows it, the rows before not applying.
        detail: what was seen.
        cause: why it likely is so.
        step: what to do next.
        outcome: what of it.
    """

    applies: Callable[[Look], object]
    detail: str
    cause: str = ""
    step: str = ""
    outcome: Outcome = Outcome.FAILED


Checks = Sequence[Check[Look]]


def always(look: object) -> bool:
    """Applies where no row before does: the last row's."""
    return True


def judge(station: Station, checks: Checks[Look], look: Look) -> Finding:
    """What was found at a station: the first row that applies."""
    check = next(check for check in checks if check.applies(look))
    words = (check.detail, check.cause, check.step)
    detail, cause, step = (text.format_map(_Attributes(look)) for text in words)
    return Finding(station, check.outcome, detail, cause, step)


class _Attributes:
    """A record's attributes by name."""

    def __init__(self, record: object) -> None:
        self._record = record

    def __getitem__(self, name: str) -> Any:
        return getattr(self._record, name)
