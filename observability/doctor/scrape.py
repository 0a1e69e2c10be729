"""Single series of a text that Prometheus would scrape. Pure.

Ray's page alone is 320 KB: only the lines of one metric are parsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


def read_series(text: str, name: str) -> Iterator[tuple[Labels, float]]:
    """Labels and value of each series of this name. Lines that can't be read are left out."""
    for line in text.splitlines():
        if not line.startswith(name) or line[len(name) : len(name) + 1] not in ("{", " "):
            continue
        try:
            for family in text_string_to_metric_families(line):
                yield from ((sample.labels, sample.value) for sample in family.samples)
        except ValueError:
            continue


def sum_series(text: str, name: str, wanted: Labels | None = None) -> float | None:
    """The sum of the series that have these labels; None: there is none."""
    found = [
        value
        for labels, value in read_series(text, name)
        if all(labels.get(label) == value for label, value in (wanted or {}).items())
    ]
    return sum(found) if found else None


def has_serve_series(text: str) -> bool:
    """Whether a process of Tagtrail told something there."""
    return "\nray_serve_" in f"\n{text}"
