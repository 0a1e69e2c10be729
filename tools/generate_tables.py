"""Writes the tables of docs/ that are made from the code: fields, options, metrics.

    python tools/generate_tables.py            write them
    python tools/generate_tables.py --check    exit 1 when one is not what the code says

A page holds `<!-- table: NAME -->` before and `<!-- end -->` after each. A unit test makes the
same check.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Formatter
from typing import Any

from observability.catalog import EXTRA_METRICS, SEED_METRICS, Metric
from observability.doctor import agents, counted, entrance, scraped, shown, stores
from observability.doctor.findings import Outcome, Station
from observability.fields import FIELDS, Kind
from observability.instrument.logging_config import LoggingConfig

DOCS = Path(__file__).parent.parent / "docs"

DOCTOR_CHECKS: tuple[tuple[Station, Iterable[Any]], ...] = (
    (Station.ANSWER, entrance.ANSWER_CHECKS),
    (Station.SEGMENT, entrance.SEGMENT_CHECKS),
    (Station.AGENT, agents.CHECKS),
    (Station.STORE, stores.CHECKS),
    (Station.PAGE, counted.PAGE_CHECKS),
    (Station.PORT, counted.PORT_CHECKS),
    (Station.PROMETHEUS, scraped.CHECKS),
    (Station.GRAFANA, shown.CHECKS),
)

_PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


def fields() -> list[str]:
    """The fields of a record."""
    rows = []
    for field in FIELDS:
        kinds = "both" if set(field.kinds) == set(Kind) else field.kinds[0].value
        rows.append((f"`{field.name}`", field.type, kinds, field.role.value, field.meaning))
    return _table(("field", "type", "in", "in Loki", "meaning"), rows)


def logging_options() -> list[str]:
    """The fields of LoggingConfig."""
    source = inspect.getsource(LoggingConfig)
    rows = []
    for name, info in LoggingConfig.model_fields.items():
        found = re.search(rf'^    {name}: .*?\n    """(.*?)"""', source, re.M | re.S)
        assert found is not None, f"{name} has no documentation"
        default = info.get_default(call_default_factory=True)
        rows.append((f"`{name}`", f"`{default!r}`", " ".join(found[1].split())))
    return _table(("option", "default", "meaning"), rows)


def seed_metrics() -> list[str]:
    """Ray Serve 1.3.0's eleven."""
    return _metrics(SEED_METRICS)


def extra_metrics() -> list[str]:
    """The others."""
    return _metrics(EXTRA_METRICS)


def doctor_checks() -> list[str]:
    """What the doctor finds, where it stopped: likely causes and next steps."""
    rows = [
        (station.value, _without_names(check.cause), _without_names(check.step))
        for station, checks in DOCTOR_CHECKS
        for check in checks
        if check.outcome is Outcome.FAILED
    ]
    return _table(("it stops at", "likely cause", "next step"), dict.fromkeys(rows))


def _without_names(text: str) -> str:
    """A row's words, with an ellipsis for what is only known when it is looked at."""
    return "".join(
        part + ("" if name is None else "…") for part, name, _, _ in Formatter().parse(text)
    )


TABLES: dict[str, Callable[[], list[str]]] = {
    table.__name__: table
    for table in (fields, logging_options, seed_metrics, extra_metrics, doctor_checks)
}


def fill(page: str) -> str:
    """A page with its tables as the code says."""
    return _PLACE.sub(lambda m: m[1] + "\n".join([*TABLES[m[2]](), m[3]]), page)


def pages() -> list[Path]:
    """The pages with such a table."""
    return [path for path in sorted(DOCS.glob("*.md")) if _PLACE.search(path.read_text())]


def _metrics(metrics: Iterable[Metric]) -> list[str]:
    rows = []
    for metric in metrics:
        exported = metric.series[0].removesuffix("_bucket")
        tags = ", ".join(f"`{tag}`" for tag in metric.tags) or "-"
        rows.append((f"`{exported}`", metric.kind.value, tags, metric.description))
    return _table(("exported as", "type", "tags", "meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def main() -> int:
    """The command."""
    stale = [path for path in pages() if fill(path.read_text()) != path.read_text()]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what the code says. Run: python tools/generate_tables.py")
        return 1 if stale else 0
    for path in stale:
        path.write_text(fill(path.read_text()))
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
