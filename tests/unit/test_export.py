"""The export of numbers through Ray goes on, and says when it can't."""

from __future__ import annotations

import pytest

from observability.catalog import BACKEND_QUEUED
from observability.instrument import export as module
from observability.instrument.export import RayExport
from observability.instrument.numbers import Family, Numbers
from observability.instrument.supervision import process_troubles


def test_an_export_that_fails_is_told_until_it_works_again() -> None:
    numbers, reasons = Numbers(), ["unforeseen"]

    def collect() -> list[Family]:
        if reasons:
            raise ZeroDivisionError(reasons.pop())
        return []

    numbers.join(collect)
    export = RayExport(numbers)
    export.export()
    assert "unforeseen" in process_troubles.describe()
    export.export()
    assert process_troubles.describe() == ""


def test_a_gauge_is_told_again_only_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        module, "record_metric", lambda instrument, value, labels: told.append(value)
    )
    numbers, waiting = Numbers(), {"b": 1.0}

    def collect() -> list[Family]:
        family = Family(BACKEND_QUEUED)
        for tag, count in waiting.items():
            family.add((tag, "e"), count)
        return [family]

    numbers.join(collect)
    export = RayExport(numbers)
    for count in (1.0, 1.0, 2.0, 2.0, 0.0):
        waiting["b"] = count
        export.export()
    assert told == [1, 2, 0]
    waiting["b"] = 5.0
    export.export()
    del waiting["b"]
    for _ in range(2):
        export.export()
    waiting["b"] = 5.0
    export.export()
    assert told == [1, 2, 0, 5, 0, 5]
