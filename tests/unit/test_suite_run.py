"""How the suite is run: what failed is run again alone, and what passes then is named."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.unit.modules import run_module
from tools.suite.records import MOST_FAILED, Run, longest_first, read_run, unsteady, why_not_again

FAILS_FIRST = """
from pathlib import Path

def test_loses_a_race():
    print("looking")
    mark = Path("been-here")
    was_here = mark.exists()
    mark.touch()
    print("was here:", was_here)
    assert was_here, "lost the race"
"""
FAILS = "def test_is_wrong():\n    assert 1 == 2\n"
DIES = "import os\n\ndef test_dies():\n    print()\n    os._exit(1)\n"
PASSES = "def test_is_right():\n    pass\n"


def line(test: str, outcome: str, phase: str = "call", seconds: float = 1.0, text: str = "") -> str:
    return json.dumps(
        {"test": test, "phase": phase, "outcome": outcome, "seconds": seconds, "text": text}
    )


def test_a_test_of_which_any_phase_failed_has_not_passed() -> None:
    run = read_run(
        [
            line("a.py::x", "passed", "setup"),
            line("a.py::x", "passed"),
            line("a.py::x", "failed", "teardown", text="left a process"),
            line("a.py::y", "failed", "setup", text="no cluster"),
            line("b.py::z", "passed"),
            line("b.py::s", "skipped", "setup"),
            json.dumps({"end": True}),
        ]
    )
    assert not run.trouble
    assert list(run.failed) == ["a.py::x", "a.py::y"]
    assert "teardown:\nleft a process" in run.failed["a.py::x"]
    assert run.passed == {"b.py::z"}
    assert longest_first(run) == ["     4.0 a.py", "     2.0 b.py"]


def test_a_run_that_did_not_come_to_its_end_is_in_trouble() -> None:
    assert read_run([line("a.py::x", "failed")]).trouble == ("it broke off",)


def test_only_what_passes_the_second_time_is_unsteady() -> None:
    first = Run(failed={"passes": "", "fails": "", "is skipped": ""})
    second = Run(failed={"fails": ""}, passed=frozenset({"passes"}))
    assert unsteady(first, second) == ["passes"]


@pytest.mark.parametrize(
    ("status", "run", "reason"),
    [
        (1, Run(failed={"x": ""}), None),
        (1, Run(failed={"x": ""}, trouble=("worker gw0 crashed",)), "worker gw0 crashed"),
        (2, Run(failed={"x": ""}), "pytest ended with status 2"),
        (-9, Run(failed={"x": ""}), "pytest ended with status -9"),
        (1, Run(), "pytest ended with status 1"),
        (
            1,
            Run(failed={str(number): "" for number in range(MOST_FAILED + 1)}),
            f"{MOST_FAILED + 1} tests failed, which is no matter of luck",
        ),
    ],
)
def test_a_second_chance_is_for_a_few_failed_tests_of_a_whole_run(
    status: int, run: Run, reason: str | None
) -> None:
    assert why_not_again(status, run) == reason


@pytest.mark.slow
def test_a_test_that_passes_alone_is_named_in_the_last_line_and_the_run_passes(
    tmp_path: Path,
) -> None:
    done = run_suite(tmp_path, {"test_a.py": FAILS_FIRST, "test_b.py": PASSES})
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "UNSTEADY: test_a.py::test_loses_a_race"
    kept = tmp_path / "test-results"
    assert (kept / "unsteady.txt").read_text() == "UNSTEADY: test_a.py::test_loses_a_race\n"
    said = (kept / "what-they-said.txt").read_text()
    assert "lost the race" in said and "was here: False" in said
    assert "was here: True" in (kept / "again.txt").read_text()
    for text in (said.strip().splitlines()[-1], "lost the race", "was here: True"):
        assert text in done.stdout, "both outputs are printed"
    assert "slowest 60 durations" in (kept / "first.txt").read_text()
    assert "test_b.py" in (kept / "longest.txt").read_text()


@pytest.mark.slow
def test_a_test_that_fails_again_fails_the_run(tmp_path: Path) -> None:
    done = run_suite(tmp_path, {"test_a.py": FAILS_FIRST, "test_b.py": FAILS})
    assert done.returncode == 1
    assert "FAILED twice: test_b.py::test_is_wrong" in done.stdout
    assert done.stdout.splitlines()[-1] == "UNSTEADY: test_a.py::test_loses_a_race"


@pytest.mark.slow
def test_a_run_that_passes_says_nothing_of_unsteadiness(tmp_path: Path) -> None:
    done = run_suite(tmp_path, {"test_b.py": PASSES})
    assert done.returncode == 0
    assert "UNSTEADY" not in done.stdout and not (tmp_path / "test-results/unsteady.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "files", "reason"),
    [
        ((), {"test_a.py": FAILS_FIRST, "test_b.py": "import nothing_of_that_name\n"}, "collected"),
        (("-x",), {"test_a.py": FAILS_FIRST, "test_b.py": PASSES}, "stopped early"),
        (
            ("-p", "xdist", "-n", "1", "--max-worker-restart=0"),
            {"test_a.py": DIES},
            "crashed",
        ),
        ((), {"test_a.py": FAILS, "test_b.py": DIES}, "broke off"),
        (("-k", "nothing"), {"test_b.py": PASSES}, "status 5"),
    ],
)
def test_a_run_that_broke_down_fails_without_a_second_chance(
    tmp_path: Path, args: tuple[str, ...], files: dict[str, str], reason: str
) -> None:
    done = run_suite(tmp_path, files, *args)
    assert done.returncode != 0
    _, told, said = done.stdout.rpartition("No second chance for what failed: ")
    assert told and reason in said


def run_suite(folder: Path, files: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    """`tools/suite/run.py` in a folder with these tests."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    return run_module(folder, "tools.suite.run", *args)
