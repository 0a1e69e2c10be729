"""Two workers run one suite: what they share, and what they must not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest


def share_of(worker: int, count: int, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(count))
    return set(conftest.port_range())


def test_no_two_workers_give_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = [share_of(worker, 3, monkeypatch) for worker in range(3)]
    assert all(len(share) == 4_000 for share in shares)
    assert len(set.union(*shares)) == 12_000


def test_a_worker_that_replaces_one_that_crashed_has_ports_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert share_of(5, 2, monkeypatch) <= set(range(20_000, 32_000))


def items(*names: str) -> list[Any]:
    return [SimpleNamespace(nodeid=name) for name in names]


def test_the_longest_file_goes_first_and_a_new_one_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setattr(conftest, "read_longest", lambda: ["9.0 long.py", "0.1 short.py"])
    found = items("short.py::a", "long.py::b", "long.py::a", "new.py::a")
    conftest.pytest_collection_modifyitems(found)
    names = [item.nodeid for item in found]
    assert names == ["new.py::a", "long.py::b", "long.py::a", "short.py::a"]


def test_an_id_that_differs_from_process_to_process_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="Expected an id that stays"):
        conftest.pytest_collection_modifyitems(items(f"a.py::test[{object()!r}]"))


def test_every_file_that_is_named_as_long_is_there() -> None:
    named = {line.split()[1] for line in conftest.read_longest()}
    root = conftest.LONGEST.parent.parent
    assert not {name for name in named if not (root / name).exists()}
