"""`tagtrail stack` as typed, with the real programs on free ports. No Ray is needed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from observability.stack.records import (
    ALERTMANAGER,
    PROMETHEUS,
    VICTORIA_LOGS,
    VLAGENT,
)
from observability.stack.services import BY_NAME, default_ports
from tests.conftest import free_port
from tests.integration.processes import ROOT, hear_ctrl_c, is_alive, script_env, wait_until
from tests.integration.programs import require

REAL = ("victoria-logs", "vlagent", "alertmanager", "prometheus")
"""In the order of start."""

ALL = tuple(f"--only={name}" for name in REAL)


@dataclass
class Typed:
    """A shell in which `tagtrail stack` is typed.

    Attributes:
        folder: `--folder`.
        ray: Ray's folder, which no Ray has.
        ports: of every name.
        env: what differs from this process's environment.
    """

    folder: Path
    ray: Path
    ports: dict[str, int]
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *args: str, timeout_s: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serve", "stack", *args, "--folder", str(self.folder)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=script_env({"COLUMNS": "160", **self.env, **env}),
            cwd=ROOT,
            check=False,
        )

    def up(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`up` with ports of its own."""
        ports = (f"--port={name}={port}" for name, port in self.ports.items())
        return self("up", *ports, f"--ray-folder={self.ray}", *args, **env)

    def pids(self) -> dict[str, int]:
        """Process ids of what was started, by name."""
        state = self.folder / "state.json"
        if not state.exists():
            return {}
        return {item["name"]: item["pid"] for item in json.loads(state.read_text())["started"]}

    def states(self) -> dict[str, str]:
        """What `status --json` says, by name."""
        return {item["name"]: item["state"] for item in json.loads(self("status", "--json").stdout)}

    def get(self, name: str, path: str, **params: str) -> httpx.Response:
        """Ask one of the programs."""
        with httpx.Client(trust_env=False) as client:
            return client.get(
                f"http://127.0.0.1:{self.ports[name]}{path}", params=params, timeout=10
            )

    def listening(self) -> list[str]:
        """Names of the ports on which somebody listens."""
        return [name for name, port in self.ports.items() if listens(port)]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mentions(folder: Path) -> list[int]:
    """Processes with this folder in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if is_alive(pid)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Typed]:
    """Everything that it started is gone afterwards."""
    typed = Typed(
        tmp_path / "stack", tmp_path / "ray", {name: free_port() for name in default_ports()}
    )
    yield typed
    pids = typed.pids()
    done = typed("down")
    for pid in pids.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert mentions(typed.folder) == []


@pytest.fixture
def programs() -> None:
    for program in (PROMETHEUS, ALERTMANAGER, VICTORIA_LOGS, VLAGENT):
        require(program)


@pytest.fixture
def script(tmp_path: Path) -> Any:
    """Makes a shell script that stands where a program should be."""

    def make(text: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


# The whole way, with the real programs.


@pytest.mark.usefixtures("programs")
def test_up_starts_all_down_ends_all_and_status_knows(stack: Typed) -> None:
    up = stack.up(*ALL)
    assert up.returncode == 0, up.stderr
    lines = [line.split() for line in up.stdout.splitlines()]
    for name, line in zip(REAL, lines, strict=False):
        address = f"http://127.0.0.1:{stack.ports[name]}"
        assert line == [name, "starting", "...", "healthy", address]
    pids = stack.pids()
    assert list(pids) == list(REAL)

    status = stack("status", "--json")
    assert status.returncode == 0
    shown = json.loads(status.stdout)
    assert [(item["name"], item["state"]) for item in shown] == [(n, "healthy") for n in REAL]
    assert all(Path(item["log"]).read_text() for item in shown)

    again = stack.up(*ALL)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("runs already ... healthy") == len(REAL)
    assert "starting" not in again.stdout
    assert stack.pids() == pids

    os.kill(pids["alertmanager"], signal.SIGKILL)
    wait_until(lambda: not is_alive(pids["alertmanager"]))
    status = stack("status")
    assert status.returncode == 3
    assert stack.states() == {**dict.fromkeys(REAL, "healthy"), "alertmanager": "gone"}
    assert any(line.split()[:2] == ["alertmanager", "gone"] for line in status.stdout.splitlines())

    mended = stack.up(*ALL)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout.count("starting ... healthy") == 1
    assert {**stack.pids(), "alertmanager": 0} == {**pids, "alertmanager": 0}
    assert list(stack.pids()) == list(REAL)

    pids = stack.pids()
    down = stack("down")
    assert down.returncode == 0, down.stderr
    assert [line.split() for line in down.stdout.splitlines()] == [
        [name, "stopped"] for name in reversed(REAL)
    ]
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert stack.listening() == []
    assert mentions(stack.folder) == []

    assert stack("down").stdout == "Nothing was started.\n"
    nothing = stack("status")
    assert nothing.returncode == 3
    assert "tagtrail stack up" in nothing.stdout


@pytest.mark.usefixtures("programs")
def test_each_program_is_told_where_the_others_are(stack: Typed) -> None:
    segments = stack.ray / "session_2026-02-26_11-05-21_709311_4711" / "logs" / "serve"
    segments.mkdir(parents=True)
    up = stack.up(*ALL)
    assert up.returncode == 0, up.stderr

    def alertmanagers() -> list[str]:
        data = stack.get("prometheus", "/api/v1/alertmanagers").json()["data"]
        return [item["url"] for item in data["activeAlertmanagers"]]

    wait_until(alertmanagers)
    assert alertmanagers() == [f"http://127.0.0.1:{stack.ports['alertmanager']}/api/v2/alerts"]

    targets = stack.get("prometheus", "/api/v1/targets").json()["data"]["activeTargets"]
    urls = {target["labels"]["job"]: target["scrapeUrl"] for target in targets}
    for job in ("prometheus", "loki", "alloy", "promtail"):
        assert urls[job] == f"http://127.0.0.1:{stack.ports[job]}/metrics"
    rules = stack.get("prometheus", "/api/v1/rules").json()["data"]["groups"]
    assert {Path(group["file"]).name for group in rules} == {"alerts.yml", "recording.yml"}

    record = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "message": "a trail"}
    (segments / "replica_b.000001.log").write_text(json.dumps(record) + "\n")
    found = wait_until(
        lambda: stack.get("victoria-logs", "/select/logsql/query", query="trail").text, 60
    )
    assert "a trail" in found


@pytest.mark.usefixtures("programs")
def test_alertmanager_groups_as_its_file_says(stack: Typed) -> None:
    assert stack.up("--only=alertmanager").returncode == 0
    labels = {"alertname": "ServeNoReplica", "backend": "b", "severity": "page"}
    alerts = [
        {"labels": labels},
        {"labels": {**labels, "alertname": "ServeQueueGrows"}},
        {"labels": {**labels, "alertname": "ServeQueueGrows", "backend": "c"}},
    ]
    url = f"http://127.0.0.1:{stack.ports['alertmanager']}/api/v2/alerts"
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, json=alerts, timeout=10).status_code == 200

    def states() -> dict[tuple[str, str], str]:
        groups = stack.get("alertmanager", "/api/v2/alerts/groups").json()
        return {
            (group["labels"]["alertname"], group["labels"]["backend"]): alert["status"]["state"]
            for group in groups
            for alert in group["alerts"]
        }

    wanted = {
        ("ServeNoReplica", "b"): "active",
        ("ServeQueueGrows", "b"): "suppressed",  # it has no replica: that is said already
        ("ServeQueueGrows", "c"): "active",
    }
    # Who inhibits is worked out when a group is sent, after group_wait.
    wait_until(lambda: states() == wanted, 60)


@pytest.mark.parametrize("names", [("loki", "alloy"), ("loki", "promtail"), ("grafana",)])
def test_the_programs_that_are_handed_in_run_with_these_files_too(
    stack: Typed, names: tuple[str, ...]
) -> None:
    for name in names:
        require(BY_NAME[name].program)
    up = stack.up(*(f"--only={name}" for name in names))
    assert up.returncode == 0, up.stderr
    assert stack.states() == dict.fromkeys(names, "healthy")
    assert stack("down").stdout.count("stopped") == len(names)


# What stands in the way.


@pytest.mark.usefixtures("programs")
def test_a_port_that_is_taken_is_told_before_anything_is_started(stack: Typed) -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", stack.ports["prometheus"]))
        foreign.listen()
        done = stack.up(*ALL)
    assert done.returncode == 1
    port = stack.ports["prometheus"]
    assert f"Port {port}, where prometheus should listen, is taken" in done.stderr
    assert "--port prometheus=PORT" in done.stderr
    assert done.stdout == ""
    assert stack.pids() == {}
    assert not (stack.folder / "logs").exists()


@pytest.mark.usefixtures("programs")
def test_what_runs_keeps_its_ports(stack: Typed) -> None:
    assert stack.up("--only=prometheus").returncode == 0
    done = stack("up", "--only=alertmanager", f"--port=prometheus={free_port()}")
    assert done.returncode == 1
    assert f"port {stack.ports['prometheus']} for prometheus" in done.stderr
    # Not said again, they are the same: Prometheus looks for it there.
    assert stack("up", "--only=alertmanager").returncode == 0
    assert stack.get("alertmanager", "/-/ready").status_code == 200


@pytest.mark.usefixtures("programs")
def test_after_a_program_that_ends_at_once_nothing_is_left(stack: Typed, script: Any) -> None:
    program = script("echo 'no such option: --config.file' >&2\nexit 7")
    done = stack.up(*ALL, TAGTRAIL_PROMETHEUS_BIN=program)
    assert done.returncode == 1
    assert "prometheus ended with exit code 7 before it was healthy" in done.stderr
    assert "no such option: --config.file" in done.stderr
    assert stack.pids() == {}
    assert stack.listening() == []
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["prometheus", "starting", "...", "failed"] in lines
    assert lines[-3:] == [
        [name, "stopped"] for name in ("alertmanager", "vlagent", "victoria-logs")
    ]


@pytest.mark.usefixtures("programs")
def test_what_ran_before_a_failure_goes_on(stack: Typed, script: Any) -> None:
    assert stack.up("--only=alertmanager").returncode == 0
    before = stack.pids()
    done = stack.up(*ALL, TAGTRAIL_PROMETHEUS_BIN=script("exit 7"))
    assert done.returncode == 1
    assert "It said nothing" in done.stderr
    assert stack.pids() == before
    assert stack.states() == {"alertmanager": "healthy"}


def test_a_program_that_never_gets_healthy_is_given_up(stack: Typed, script: Any) -> None:
    program = script("echo still thinking\nexec sleep 600")
    done = stack.up("--only=prometheus", "--timeout=1", TAGTRAIL_PROMETHEUS_BIN=program)
    assert done.returncode == 1
    assert "/-/ready did not say 200 within 1 s" in done.stderr
    assert "still thinking" in done.stderr
    assert stack.pids() == {}


def test_a_program_that_is_none_for_this_machine_is_told(stack: Typed, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    done = stack.up("--only=prometheus", TAGTRAIL_PROMETHEUS_BIN=str(program))
    assert done.returncode == 1
    assert "prometheus can't be started" in done.stderr
    assert "TAGTRAIL_PROMETHEUS_BIN names another file" in done.stderr


def test_a_variable_that_names_nothing_is_told_rather_than_passed_over(stack: Typed) -> None:
    done = stack.up(TAGTRAIL_GRAFANA_BIN="/none/grafana")
    assert done.returncode == 1
    assert "TAGTRAIL_GRAFANA_BIN=/none/grafana is no program" in done.stderr
    assert stack.pids() == {}


def test_ctrl_c_while_it_waits_leaves_nothing(stack: Typed, script: Any) -> None:
    program = script("exec sleep 600")
    command = [sys.executable, "-m", "serve", "stack", "up", "--only=prometheus"]
    command += [f"--port=prometheus={stack.ports['prometheus']}", f"--folder={stack.folder}"]
    waiting = subprocess.Popen(
        command,
        env=script_env({"TAGTRAIL_PROMETHEUS_BIN": program}),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        pid = wait_until(lambda: stack.pids().get("prometheus", 0))
        held = stack("down")
        assert held.returncode == 1
        assert "Another 'tagtrail stack' is at work" in held.stderr
        waiting.send_signal(signal.SIGINT)
        said, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait(10)
    assert waiting.returncode == 1
    assert "Aborted!" in said
    assert not is_alive(pid)
    assert stack.pids() == {}


def test_with_nothing_installed_each_program_is_named_with_the_way_to_get_it(
    stack: Typed, tmp_path: Path
) -> None:
    empty = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    empty |= {service.program.variable: "" for service in BY_NAME.values()}
    done = stack.up(**empty)
    assert done.returncode == 1
    text = " ".join(done.stdout.replace("│", " ").split())
    for service in BY_NAME.values():
        assert service.name in text
        assert service.program.how_to_get in text
    assert "Nothing is installed that could be started" in done.stderr

    listed = json.loads(stack.up("--json", **empty).stdout)
    assert listed["services"] == []
    assert {item["name"] for item in listed["missing"]} == set(BY_NAME)

    asked = stack.up("--only=prometheus", **empty)
    assert asked.returncode == 1
    assert "prometheus is not on this machine. On Debian" in asked.stderr


@pytest.mark.parametrize("value", ["prometheus", "prometheus=x", "web=1", "loki=0", "loki=65536"])
def test_a_port_that_is_none_is_wrong_usage(stack: Typed, value: str) -> None:
    done = stack("up", "--port", value)
    assert done.returncode == 2
    assert "expected NAME=PORT" in done.stderr
