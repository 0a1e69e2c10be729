"""A pytest plugin: what became of each test, written to the file that `--outcomes` names.

    python -m pytest -p tools.suite.outcomes --outcomes=FILE ...

One JSON line for each phase of each test that failed or was the test itself, and one for all that
makes a run worthless as a whole. Who reads it: `tools/suite/run.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--outcomes", help="file to write the outcome of each test to, as JSON lines")


def pytest_configure(config: pytest.Config) -> None:
    """Listen, if there is a file; not in xdist's workers, whose reports reach who started them."""
    if (path := config.getoption("--outcomes")) and not hasattr(config, "workerinput"):
        file = Path(path).open("w")  # noqa: SIM115 - pytest_unconfigure closes it
        config.pluginmanager.register(_Listener(file), "outcomes-listener")


class _Listener:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(
            test=report.nodeid,
            phase=report.when,
            outcome=report.outcome,
            seconds=round(report.duration, 3),
            text=_text_of(report) if report.failed else "",
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(trouble=f"{report.nodeid} could not be collected")

    def pytest_internalerror(self, excrepr: object) -> None:
        self._write(trouble="pytest itself failed")

    @pytest.hookimpl(optionalhook=True)  # of xdist
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        if error:
            self._write(trouble=f"worker {node.gateway.id} crashed")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if stopped := session.shouldfail or session.shouldstop:
            self._write(trouble=f"it stopped early: {stopped}")

    def pytest_unconfigure(self) -> None:
        self._write(end=True)  # a process that died wrote no such line
        self._file.close()

    def _write(self, **line: object) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # a run that is killed leaves what it knew


def _text_of(report: pytest.TestReport) -> str:
    sections = [f"--- {name} ---\n{text}" for name, text in report.sections]
    return "\n".join([report.longreprtext, *sections])
