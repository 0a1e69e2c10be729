"""Commands that talk to no cluster start without Ray, which takes half a second to be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import services

from serve.command.cluster import is_ray_running

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"
REQUEST = {"time": "2026-11-23T02:00:00.000000001Z", "request_id": "abc", "message": "hello"}


def loaded_by(*args: str) -> tuple[int, set[str]]:
    """Exit code of a command, and the modules that it imported."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serve", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "serve.command.cli" in modules, result.stderr
    return result.returncode, modules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["trace", "--help"], 0),
        (["doctor", "--help"], 0),
        (["deploy", "--schema"], 0),
        (["trace", "abc", "--folder", "{folder}"], 0),
        (["logs", "-n", "3", "--folder", "{folder}"], 0),
        (["logs", "--loki", NOBODY], 1),
        (["stack", "status", "--folder", "{folder}"], 3),
        (["grafana", "diff", "--url", NOBODY], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_that_needs_no_cluster_imports_no_ray(
    args: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "replica_b#abcdef.000001.log").write_text(json.dumps(REQUEST) + "\n")
    ended, modules = loaded_by(*(arg.format(folder=tmp_path) for arg in args))
    assert ended == code
    assert not {"ray", "serve.public"} & modules


def show_process(folder: Path, *command: str) -> None:
    """As the system shows a process."""
    (folder / "42").mkdir()
    (folder / "42" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command))


def test_ray_is_not_asked_where_no_process_is_named_like_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: pytest.fail("Ray was asked."))
    show_process(tmp_path, "sshd", "-D")
    (tmp_path / "43").mkdir()  # it has ended
    assert not is_ray_running(tmp_path)


@pytest.mark.parametrize("found", [{"127.0.0.1:6379"}, set()])
def test_ray_is_asked_about_a_process_that_is_named_like_its_own(
    found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: found)
    show_process(tmp_path, "/opt/ray/core/src/ray/raylet/raylet", "--gcs-address=127.0.0.1:6379")
    assert is_ray_running(tmp_path) is bool(found)


def test_ray_is_asked_where_the_system_shows_no_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"127.0.0.1:6379"})
    assert is_ray_running(tmp_path / "proc")
