"""The copy of log lines on stderr."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from observability.instrument.echo import MAX_WAITING, Echo


@pytest.fixture
def stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that is this process's stderr."""
    path = tmp_path / "stderr"
    with open(path, "w") as file:
        monkeypatch.setattr(sys, "__stderr__", file)
        yield path


def test_lines_wait_and_are_written_in_their_order(stderr: Path) -> None:
    echo = Echo()
    echo.append("a")
    echo.append("b")
    assert stderr.read_text() == ""
    echo.flush()
    assert stderr.read_text() == "a\nb\n"
    echo.flush()
    assert stderr.read_text() == "a\nb\n"


def test_what_was_written_to_the_stream_before_comes_before(stderr: Path) -> None:
    echo = Echo()
    assert sys.__stderr__ is not None
    sys.__stderr__.write("from the process itself\n")
    echo.append("a")
    echo.flush()
    assert stderr.read_text() == "from the process itself\na\n"


def test_half_a_surrogate_pair_is_written_as_its_escape(stderr: Path) -> None:
    echo = Echo()
    echo.append("naïve \ud800")
    echo.flush()
    assert stderr.read_text(encoding="utf-8") == "naïve \\ud800\n"


def test_the_oldest_lines_go_when_too_many_wait(stderr: Path) -> None:
    echo = Echo()
    for number in range(MAX_WAITING + 5):
        echo.append(str(number))
    echo.flush()
    lines = stderr.read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("5", str(MAX_WAITING + 4), MAX_WAITING)


def test_a_closed_stderr_and_none_at_all_harm_nobody(
    stderr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = Echo()
    assert sys.__stderr__ is not None
    sys.__stderr__.close()
    echo.append("a")
    echo.flush()
    monkeypatch.setattr(sys, "__stderr__", None)
    echo.append("b")
    echo.flush()
    assert stderr.read_text() == ""


def test_a_reader_of_stderr_that_went_away_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream:
        monkeypatch.setattr(sys, "__stderr__", stream)
        echo = Echo()
        echo.append("a")
        echo.flush()


@pytest.mark.slow
def test_a_finaliser_that_warns_while_lines_are_written_loses_none(stderr: Path) -> None:
    echo = Echo()

    class Warning_:
        """Garbage that says something when it is collected, as an unclosed client does."""

        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            echo.append("from a finaliser")
            echo.flush()

    before = gc.get_threshold()
    try:
        for number in range(200):
            gc.disable()
            Warning_()
            echo.append(str(number))
            gc.set_threshold(1)
            gc.enable()
            echo.flush()
    finally:
        gc.enable()
        gc.set_threshold(*before)
    gc.collect()
    lines = stderr.read_text().splitlines()
    assert sorted(line for line in lines if line.isdigit()) == sorted(map(str, range(200)))
    assert lines.count("from a finaliser") == 200
