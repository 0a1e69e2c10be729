"""`tools/steady`: what fails now and then is found, named and counted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.modules import run_module
from tools.suite.records import Run
from tools.suite.shuffle import pytest_collection_modifyitems as shuffle
from tools.suite.steady import Round, busy, parser, table

ODD_ROUNDS = """
from pathlib import Path

def test_every_other_time():
    count = Path("count")
    number = int(count.read_text()) if count.exists() else 1
    count.write_text(str(number + 1))
    assert number % 2 == 0

def test_always():
    pass
"""


def order_of(seed: int | None, *names: str, is_story: bool = False) -> list[str]:
    items: list[Any] = [
        SimpleNamespace(nodeid=name, get_closest_marker=lambda marker: is_story) for name in names
    ]
    config: Any = SimpleNamespace(getoption=lambda name: seed)
    shuffle(config, items)
    return [item.nodeid for item in items]


def test_the_order_follows_from_the_seed_and_keeps_the_tests_of_a_file_together() -> None:
    names = [f"{file}.py::t{number}" for file in "abcd" for number in range(5)]
    orders = [order_of(seed, *names) for seed in range(20)]
    assert orders == [order_of(seed, *names) for seed in range(20)]
    assert len(set(map(tuple, orders))) == 20
    for order in orders:
        assert sorted(order) == names
        files = [name[0] for name in order]
        assert all(files[at : at + 5] == [files[at]] * 5 for at in range(0, 20, 5))


def test_a_file_that_tells_a_story_keeps_its_order() -> None:
    names = [f"{file}.py::t{number}" for file in "abcd" for number in range(5)]
    order = order_of(3, *names, is_story=True)
    assert order != names
    assert sorted(order, key=lambda name: name[0]) == names


def test_without_a_seed_the_order_stays() -> None:
    assert order_of(None, "b.py::x", "a.py::x") == ["b.py::x", "a.py::x"]


def test_the_table_has_the_most_frequent_first_with_its_seeds() -> None:
    rounds = [
        Round(7, 1, Run(failed={"now and then": "", "often": ""})),
        Round(8, 1, Run(failed={"often": ""}, trouble=("worker gw0 crashed",))),
        Round(9, 0, Run()),
        Round(10, 4, Run()),
    ]
    assert table(rounds) == [
        "   failed  test (seeds)",
        "   2 of 4  often (7, 8)",
        "   1 of 4  (the run: pytest ended with status 4) (10)",
        "   1 of 4  (the run: worker gw0 crashed) (8)",
        "   1 of 4  now and then (7)",
    ]
    assert table(rounds[2:3]) == ["Nothing failed in 1 rounds."]


@pytest.mark.slow
def test_each_core_burns_until_the_rounds_end() -> None:
    assert parser().parse_args(["1"]).burners == os.cpu_count()
    with busy(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)


@pytest.mark.slow
def test_a_test_that_fails_now_and_then_is_counted_and_the_command_fails(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(ODD_ROUNDS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = steady(tmp_path, "3", "test_a.py", "--seed=5")
    assert done.returncode == 1, done.stdout
    assert "   2 of 3  test_a.py::test_every_other_time (5, 7)\n" in done.stdout
    assert "test_always (" not in done.stdout
    assert "1 failed" in (tmp_path / "test-results/steady/round-1.txt").read_text()


@pytest.mark.slow
def test_without_a_failure_the_command_succeeds(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("def test_always():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = steady(tmp_path, "1", "test_a.py")
    assert done.returncode == 0, done.stdout
    assert "Nothing failed in 1 rounds." in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_number_of_rounds_that_is_none_is_refused(tmp_path: Path, count: str) -> None:
    done = steady(tmp_path, count)
    assert done.returncode == 2 and "tools/steady" in done.stdout


def steady(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # Whether something burns is looked at above; here it would only hold up other tests.
    return run_module(folder, "tools.suite.steady", "--burners=0", *args)
