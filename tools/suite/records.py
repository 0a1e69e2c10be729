"""What one run of the tests said, and what follows from it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MOST_FAILED = 20
"""So many tests may fail and be run again; more than that is a broken build, not a lost race."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        failed: what each test that failed said, in the order in which they did.
        passed: those that ran and of which no phase failed.
        seconds: how long each file's tests took.
        trouble: why the run as a whole is worth nothing; empty when nothing is known.
    """

    failed: Mapping[str, str] = field(default_factory=dict)
    passed: frozenset[str] = frozenset()
    seconds: Mapping[str, float] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()


def read_run(lines: Iterable[str]) -> Run:
    """The run whose outcomes the plugin wrote."""
    failed: dict[str, str] = {}
    ran: set[str] = set()
    seconds: dict[str, float] = {}
    trouble: list[str] = []
    has_ended = False
    for line in map(json.loads, lines):
        if "test" not in line:
            has_ended = has_ended or "end" in line
            trouble += [line["trouble"]] if "trouble" in line else []
            continue
        test, outcome = line["test"], line["outcome"]
        file = test.partition("::")[0]
        seconds[file] = seconds.get(file, 0.0) + line["seconds"]
        if outcome == "failed":
            failed[test] = f"{failed.get(test, '')}{line['phase']}:\n{line['text']}\n"
        elif outcome == "passed" and line["phase"] == "call":
            ran.add(test)
    if not has_ended:
        trouble.append("it broke off")
    return Run(failed, frozenset(ran - failed.keys()), seconds, tuple(trouble))


def why_not_again(status: int, run: Run) -> str | None:
    """Why what failed does not get its second chance; None when it does.

    Args:
        status: pytest's, of the first run.
        run: the first run.
    """
    if run.trouble:
        return "; ".join(run.trouble)
    if status != 1 or not run.failed:
        return f"pytest ended with status {status}"
    if len(run.failed) > MOST_FAILED:
        return f"{len(run.failed)} tests failed, which is no matter of luck"
    return None


def unsteady(first: Run, second: Run) -> list[str]:
    """Those that failed, and passed when they were run again."""
    return [test for test in first.failed if test in second.passed]


def longest_first(run: Run) -> list[str]:
    """A line for each file, the one that took longest first."""
    dearest = sorted(run.seconds.items(), key=lambda item: (-item[1], item[0]))
    return [f"{seconds:8.1f} {file}" for file, seconds in dearest]
