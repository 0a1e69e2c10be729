"""What `stack up` keeps for a later shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from observability.deployed import deploy_folder
from observability.stack.folder import StackFolder
from observability.stack.rendering import DASHBOARD_FOLDER, RAY_FOLDER, changes_for
from observability.stack.services import BY_NAME, StackError, default_ports
from observability.stack.state import Started, State, decode, encode

STATE = State(
    (Started("loki", 12, "34@boot", "http://127.0.0.1:1", "http://127.0.0.1:1/ready", "/l"),),
    {"loki": 1},
    "/tmp/ray",
)


def test_a_state_comes_back_as_it_went() -> None:
    assert decode(encode(STATE)) == STATE


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"started": [{}], "ports": {}}', '{"started": 1}']
)
def test_a_text_that_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_state_is_kept_and_forgotten_when_nothing_is_started(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    assert folder.load() == State()
    folder.save(STATE)
    assert StackFolder(tmp_path).load() == STATE
    folder.save(State())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_state_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StackError, match=r"state\.json can't be read .* remove it"):
        StackFolder(tmp_path).load()


def test_the_folder_is_the_users_alone(tmp_path: Path) -> None:
    with StackFolder(tmp_path / "a" / "b").locked():
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"file/x can't be used: .*--folder PATH"):
        with StackFolder(tmp_path / "file" / "x").locked():
            pass


@pytest.mark.slow
def test_two_commands_do_not_work_in_one_folder_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from observability.stack.folder import StackFolder\n"
        "with StackFolder(Path(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    with StackFolder(tmp_path).locked():
        held = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "Another 'tagtrail stack' is at work" in held.stderr
    subprocess.run(command, cwd=root, check=True)


def test_a_configuration_lies_where_it_lay_or_is_copied_with_all_that_belongs_to_it(
    tmp_path: Path,
) -> None:
    folder, deploy, service = StackFolder(tmp_path), deploy_folder(), BY_NAME["prometheus"]
    same = changes_for(default_ports(), RAY_FOLDER, DASHBOARD_FOLDER)
    assert folder.config(service, deploy, same) == deploy / "prometheus" / "prometheus.yml"

    moved = changes_for({**default_ports(), "alertmanager": 1}, RAY_FOLDER, DASHBOARD_FOLDER)
    copy = folder.config(service, deploy, moved)
    assert copy == tmp_path / "config" / "prometheus" / "prometheus.yml"
    assert "127.0.0.1:1]" in copy.read_text()
    rules = copy.parent / "rules" / "alerts.yml"
    assert rules.read_text() == (deploy / "prometheus" / "rules" / "alerts.yml").read_text()

    assert folder.config(service, deploy, same) == deploy / "prometheus" / "prometheus.yml"
    assert not copy.exists()


def test_a_file_that_did_not_come_along_is_told(tmp_path: Path) -> None:
    changes = changes_for(default_ports(), RAY_FOLDER, DASHBOARD_FOLDER)
    with pytest.raises(StackError, match=r"loki-local-config\.yaml is missing"):
        StackFolder(tmp_path).config(BY_NAME["loki"], tmp_path / "none", changes)
