"""The export of numbers through Ray goes on, and says when it can't."""

from __future__ import annotations

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
