"""`tagtrail deploy` and `diff` on a running instance: a file, and what becomes of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import serve
from serve.command.cli import cli
from serve.controller.goal import Goal
from tests.integration.conftest import Instance
from tests.integration.processes import wait_until

APP = """
x-quick: &quick
  experimental_graceful_shutdown_wait_loop_s: 0.05
backends:
  adder:
    import: tests.integration.samples:Adder
    init_args: [{start}]
    ray_actor_options: {{num_cpus: 0}}
    config: {{<<: *quick, num_replicas: {replicas}}}
{more}
endpoints:
  add:
    route: /add
    traffic: {{{traffic}}}
"""
SECOND = """
  adder_v2:
    import: tests.integration.samples.Adder
    init_kwargs: {start: 100}
    ray_actor_options: {num_cpus: 0}
    config: *quick
"""

Run = Callable[..., Result]


@pytest.fixture
def tagtrail(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, which is connected already."""
    monkeypatch.setattr("serve.command.deploy.connect_instance", lambda address: serve.connect())
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A file of the app above."""

    def make(start: int = 1, replicas: int = 1, traffic: str = "adder: 1", more: str = "") -> Path:
        path = tmp_path / "app.yaml"
        path.write_text(APP.format(start=start, replicas=replicas, traffic=traffic, more=more))
        return path

    return make


def goal() -> Goal:
    return serve.connect().status().goal


def test_a_file_is_deployed_and_deployed_again_it_changes_nothing(
    tagtrail: Run, write: Callable[..., Path], instance: Instance
) -> None:
    path = write()
    assert tagtrail("diff", path).exit_code == 3
    made = tagtrail("deploy", path)
    assert (made.exit_code, made.output) == (0, "backend adder made\nendpoint add made\n")
    assert instance.http.get("/add").text == "2"

    before = goal()
    again = tagtrail("deploy", path)
    assert again.exit_code == 0, again.output
    assert again.output.splitlines()[-1] == "Nothing to do."
    assert goal() == before
    assert tagtrail("diff", path).exit_code == 0


def test_requests_are_answered_while_configuration_traffic_and_version_change(
    tagtrail: Run, write: Callable[..., Path], instance: Instance
) -> None:
    assert tagtrail("deploy", write()).exit_code == 0
    with asked_all_the_while(instance, "/add") as answers:
        changed = tagtrail("deploy", write(replicas=2))
        assert changed.exit_code == 0, changed.output
        assert "backend adder changed: config.num_replicas: 1 -> 2" in changed.output

        moved = tagtrail("deploy", write(replicas=2, traffic="adder: 0, adder_v2: 1", more=SECOND))
        assert moved.exit_code == 0, moved.output
        wait_until(lambda: answers[-1] == (200, "101"))

        only_second = write(more=SECOND, traffic="adder_v2: 1")
        text = only_second.read_text()
        only_second.write_text(text.replace(text[text.index("  adder:") : text.index(SECOND)], ""))
        removed = tagtrail("deploy", only_second, "--remove")
        assert removed.exit_code == 0, removed.output
        assert "backend adder removed" in removed.output
    assert list(serve.list_backends()) == ["adder_v2"]
    assert {status for status, _ in answers} == {200}
    assert {body for _, body in answers} == {"2", "101"}


def test_a_wrong_file_is_told_with_its_lines_and_changes_nothing(
    tagtrail: Run, write: Callable[..., Path]
) -> None:
    assert tagtrail("deploy", write()).exit_code == 0
    before = goal()
    path = write(start=5, replicas="two", traffic="adder: 0.5")  # type: ignore[arg-type]
    done = tagtrail("deploy", path, "--replace")
    assert done.exit_code == 2
    assert f"{path}:9:40: backends.adder.config.num_replicas: expected an integer" in done.output
    assert f"{path}:14:14: endpoints.add.traffic: Traffic dictionary weights must" in done.output
    assert goal() == before


def test_dry_run_and_diff_tell_what_would_be_done_and_do_nothing(
    tagtrail: Run, write: Callable[..., Path]
) -> None:
    serve.create_backend("old", lambda: "old", ray_actor_options={"num_cpus": 0})
    before = goal()
    path = write()
    dry = tagtrail("deploy", path, "--dry-run", "--remove", "--json")
    assert dry.exit_code == 0, dry.output
    told = {c["name"]: c["action"] for c in json.loads(dry.output)["changes"]}
    assert told == {"adder": "create", "add": "create", "old": "remove"}
    differs = tagtrail("diff", path)
    assert differs.exit_code == 3
    assert "backend old is not in the file: left alone" in differs.output
    assert goal() == before


def test_changed_arguments_are_refused_and_with_replace_made_anew(
    tagtrail: Run, write: Callable[..., Path], instance: Instance
) -> None:
    assert tagtrail("deploy", write()).exit_code == 0
    before = goal()
    path = write(start=10)
    refused = tagtrail("deploy", path)
    assert refused.exit_code == 1
    assert f"{path}:5:3: backends.adder: it runs already and differs in init_args" in refused.output
    assert goal() == before
    assert tagtrail("diff", path).exit_code == 3

    replaced = tagtrail("deploy", path, "--replace")
    assert replaced.exit_code == 0, replaced.output
    assert instance.http.get("/add").text == "11"
    assert tagtrail("diff", path).exit_code == 0


def test_what_replicas_cannot_import_is_told_with_its_line_and_the_rest_stays(
    tagtrail: Run, write: Callable[..., Path], instance: Instance
) -> None:
    assert tagtrail("deploy", write()).exit_code == 0
    before = goal()
    path = write(more=SECOND.replace("samples.Adder", "samples.Nobody"), traffic="adder_v2: 1")
    failed = tagtrail("deploy", path, "--json")
    assert failed.exit_code == 1
    (problem,) = json.loads(failed.stdout)["problems"]
    assert (problem["line"], problem["key"]) == (11, "backends.adder_v2")
    assert "has no attribute 'Nobody'" in problem["message"]
    assert goal() == before
    assert instance.http.get("/add").text == "2"


def asked_all_the_while(instance: Instance, path: str) -> Any:
    """Ask in a thread until the block ends; the (status, text) of each answer so far."""
    return _Asking(instance, path)


class _Asking:
    def __init__(self, instance: Instance, path: str) -> None:
        self._answers: list[tuple[int, str]] = []
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(instance, path))

    def __enter__(self) -> list[tuple[int, str]]:
        self._thread.start()
        wait_until(lambda: self._answers)
        return self._answers

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(30)

    def _ask(self, instance: Instance, path: str) -> None:
        while not self._ends.is_set():
            answer = instance.http.get(path)
            self._answers.append((answer.status_code, answer.text))
