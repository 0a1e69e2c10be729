"""What a look at the way of the trail yields: one finding a station, and where it stopped. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Station(str, Enum):
    """Where the canary is looked for, in the order of the way."""

    RAY = "ray"
    INSTANCE = "instance"
    ANSWER = "answer"
    SEGMENT = "segment"
    AGENT = "log agent"
    STORE = "log store"
    PAGE = "metrics page"
    PORT = "metrics port"
    PROMETHEUS = "prometheus"
    GRAFANA = "grafana"


class Outcome(str, Enum):
    """What was found there."""

    OK = "ok"
    FAILED = "failed"
    ABSENT = "absent"
    """Nobody named it, and nothing answers where it usually is; or it is switched off."""

    SKIPPED = "skipped"
    """It was not looked at: what should have come there had stopped before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found at one station.

    Attributes:
        station: which one.
        outcome: what of it.
        detail: what was seen.
        cause: why it likely failed.
        step: what to do next, a command where there is one.
    """

    station: Station
    outcome: Outcome
    detail: str
    cause: str = ""
    step: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON-able data."""
        return {
            "station": self.station.value,
            "outcome": self.outcome.value,
            "detail": self.detail,
            "cause": self.cause,
            "next": self.step,
        }


def good(station: Station, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(station, Outcome.OK, detail)


def bad(station: Station, detail: str, cause: str, step: str) -> Finding:
    """The trail stops here."""
    return Finding(station, Outcome.FAILED, detail, cause, step)


def absent(station: Station, detail: str) -> Finding:
    """There is no such thing here, and nobody said that there was."""
    return Finding(station, Outcome.ABSENT, detail)


def skipped(station: Station, detail: str) -> Finding:
    """It was not looked at."""
    return Finding(station, Outcome.SKIPPED, detail)


def first_failure(findings: Iterable[Finding]) -> Finding | None:
    """Where it stopped; None: nowhere."""
    return next((f for f in findings if f.outcome is Outcome.FAILED), None)


def conclude(findings: Iterable[Finding]) -> str:
    """The end of the report: where it stopped and why, or how far it came."""
    findings = list(findings)
    failure = first_failure(findings)
    if failure is not None:
        others = {f.station for f in findings if f.outcome is Outcome.FAILED} - {failure.station}
        text = f"{failure.cause} Next: {failure.step}"
        if failure.station is not Station.INSTANCE:  # the canary comes past an unwell backend
            text = f"It stopped at the {failure.station.value}. {text}"
        if others:
            names = [station.value for station in Station if station in others]
            text += f" Not well either: {', '.join(names)}."
        return text
    passed = dict.fromkeys(f.station.value for f in findings if f.outcome is Outcome.OK)
    missing = [f.station.value for f in findings if f.outcome is not Outcome.OK]
    text = f"All is well at: {', '.join(passed)}."
    return text + (f" Not there: {', '.join(dict.fromkeys(missing))}." if missing else "")


def to_report(findings: Iterable[Finding], canary: str) -> dict[str, Any]:
    """The whole report as JSON-able data.

    Args:
        findings: all of them.
        canary: the canary's request id.
    """
    findings = list(findings)
    failure = first_failure(findings)
    return {
        "healthy": failure is None,
        "stopped_at": None if failure is None else failure.station.value,
        "canary": canary,
        "conclusion": conclude(findings),
        "stations": [finding.as_dict() for finding in findings],
    }
