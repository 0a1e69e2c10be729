"""What `tagtrail deploy` and `diff` do before they come to an instance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve.app.schema import app_schema
from serve.command.cli import cli


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise AssertionError("It went to look for an instance.")

    monkeypatch.setattr("serve.command.deploy.connect_instance", refuse)


def test_the_schema_needs_no_file_and_no_ray() -> None:
    done = CliRunner().invoke(cli, ["deploy", "--schema"])
    assert done.exit_code == 0
    assert json.loads(done.output) == app_schema()


def test_without_a_file_it_says_how_to_name_one() -> None:
    done = CliRunner().invoke(cli, ["deploy"])
    assert done.exit_code == 2
    assert "tagtrail deploy app.yaml" in done.output


@pytest.mark.parametrize("verb", ["deploy", "diff"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "it can't be read: No such file or directory."),
        (b"\xff\xfe", "no UTF-8 text"),
        (b"backend: {}", "backend: unknown key 'backend'."),
    ],
)
def test_a_file_that_is_none_is_wrong_usage(
    tmp_path: Path, verb: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / "app.yaml"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(cli, [verb, str(path)])
    assert done.exit_code == 2
    assert f"{path}:1:1: {told}" in done.stderr
    assert done.stderr.endswith("Error: The file is wrong. Nothing was changed.\n")
    assert done.stdout == ""


def test_what_is_wrong_is_told_as_json_too(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("\ufeffbackends: {a: {import: nothing}}\n")  # some editors begin a file so
    done = CliRunner().invoke(cli, ["diff", str(path), "--json"])
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem.pop("message").startswith("Import path 'nothing'")
    assert problem == {"file": str(path), "line": 1, "column": 24, "key": "backends.a.import"}
