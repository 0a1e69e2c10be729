"""Where a program of the pipeline is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from observability.settings import program_variables
from observability.stack.programs import find_program
from observability.stack.records import VICTORIA_LOGS, Program

TOOL = Program("tool", ("tool-ng", "tool"), "Ask for it.")


def make(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_variable_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = make(tmp_path, "elsewhere")
    make(tmp_path, "tool")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program(TOOL, {"TAGTRAIL_TOOL_BIN": str(named)}) == named


def test_the_path_is_searched_for_each_of_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plain = make(tmp_path, "tool")
    assert find_program(TOOL, {}) == plain
    likeliest = make(tmp_path, "tool-ng")
    assert find_program(TOOL, {}) == likeliest


def test_a_variable_that_names_no_program_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"TAGTRAIL_TOOL_BIN=\S+none is no program"):
        find_program(TOOL, {"TAGTRAIL_TOOL_BIN": str(tmp_path / "none")})


def test_the_newest_of_the_cache_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    for version in ("v1.9.0", "v1.10.0"):
        (tmp_path / "tool" / version).mkdir(parents=True)
        make(tmp_path / "tool" / version, "tool-ng")
    assert find_program(TOOL, {}, tmp_path) == tmp_path / "tool" / "v1.10.0" / "tool-ng"


def test_a_program_that_is_not_there_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match=r"no tool-ng or tool, and .+ empty\. Ask for it"):
        find_program(TOOL, {}, tmp_path)


def test_a_dash_of_its_name_is_an_underscore_in_the_variable() -> None:
    assert VICTORIA_LOGS.variable == "TAGTRAIL_VICTORIA_LOGS_BIN"


def test_only_variables_that_name_programs_are_read() -> None:
    environ = {"TAGTRAIL_LOKI_BIN": "/l", "TAGTRAIL_LOG_LEVEL": "INFO", "LOKI_BIN": "/x"}
    assert program_variables(environ) == {"TAGTRAIL_LOKI_BIN": "/l"}
