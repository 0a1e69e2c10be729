"""The export of numbers through Ray goes on, and says when it can't."""

from __future__ import annotations

import pytest

from observability.catalog import BACKEND_QUEUED
from observability.instrument import export as module
from observability.instrument.export import RayExport
from observability.instrument.numbers import Family, Numbers
from observability.instrument.ray_internals import report_interval_s
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


def test_a_gauge_is_told_when_it_has_changed_and_in_each_whole_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[float] = []

    def record(instrument: object, value: float, labels: object) -> None:
        told.append(value)

    monkeypatch.setattr(module, "record_metric", record)
    numbers, waiting = Numbers(), {"b": 1.0}

    def collect() -> list[Family]:
        family = Family(BACKEND_QUEUED)
        for tag, count in waiting.items():
            family.add((tag, "e"), count)
        return [family]

    def tell(value: float | None) -> list[float]:
        told.clear()
        waiting.clear()
        if value is not None:
            waiting["b"] = value
        export.export()
        return list(told)

    numbers.join(collect)
    export = RayExport(numbers, whole_every=4)
    assert [tell(value) for value in (1, 1, 2, 2)] == [[1], [], [2], []]
    assert [tell(value) for value in (2, 2, None, None)] == [[2], [], [0], []]  # gone: 0, once
    assert [tell(value) for value in (2, 2)] == [[2], []]
    told.clear()
    export.stop()
    assert told == [2]


@pytest.mark.parametrize(("interval_s", "times"), [(10.0, 2), (1.0, 10), (0.0, 10)])
def test_all_gauges_are_told_twice_between_two_reports_of_ray(
    monkeypatch: pytest.MonkeyPatch, interval_s: float, times: int
) -> None:
    told: list[float] = []
    monkeypatch.setattr(module, "record_metric", lambda *told_of: told.append(told_of[1]))
    monkeypatch.setattr(module, "report_interval_s", lambda: interval_s)
    numbers, family = Numbers(), Family(BACKEND_QUEUED)
    family.add(("b", "e"), 1.0)
    numbers.join(lambda: [family])
    export = RayExport(numbers)
    for _ in range(10):  # seconds
        export.export()
    assert len(told) == times


def test_rays_interval_is_found() -> None:
    assert report_interval_s() == 10  # its default
