"""A finding as lines for a terminal. Pure: colours are there, who prints may strip them."""

from __future__ import annotations

import click

from observability.doctor.findings import Finding, Outcome
from observability.instrument.plain import one_line

WIDTH = 13
"""Of the stations' names, characters."""

_DASH = "\N{EN DASH}"
_MARKS = {
    Outcome.OK: ("✓", "green"),
    Outcome.FAILED: ("✗", "red"),
    Outcome.ABSENT: (_DASH, "bright_black"),
    Outcome.SKIPPED: (_DASH, "bright_black"),
}


def show_finding(finding: Finding) -> str:
    """A line, and below a failure its cause and the next step."""
    mark, colour = _MARKS[finding.outcome]
    text = one_line(finding.detail)
    if finding.outcome is Outcome.ABSENT:
        text = f"not there: {text}"
    elif finding.outcome is Outcome.SKIPPED:
        text = f"not looked at: {text}"
    is_faint = finding.outcome in (Outcome.ABSENT, Outcome.SKIPPED)
    lines = [
        f"{click.style(mark, fg=colour, bold=True)} {finding.station.value:<{WIDTH}} "
        f"{click.style(text, fg=colour) if is_faint else text}"
    ]
    if finding.outcome is Outcome.FAILED:
        indent = " " * (WIDTH + 3)
        lines.append(f"{indent}{click.style('likely', fg='yellow')} {one_line(finding.cause)}")
        lines.append(f"{indent}{click.style('next', fg='yellow')}   {one_line(finding.step)}")
    return "\n".join(lines)
