"""The command `tagtrail` against a Ray cluster that runs: as typed, and in this process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

import serve
from serve.command.cli import cli
from tests.integration.command import tagtrail, typed_tagtrail
from tests.integration.processes import (
    ROOT,
    run_folders,
    script_env,
    wait_until,
    write_script,
)


@pytest.fixture
def no_instance(ray_cluster: None) -> Iterator[None]:
    """None runs before, none is left."""
    yield
    serve.shutdown()
    with contextlib.suppress(serve.RayServeException):
        serve.connect().shutdown()
    serve.shutdown()


class Sabotaged:
    def __init__(self, path: str) -> None:
        if Path(path).exists():
            raise RuntimeError("sabotaged")

    async def __call__(self, request: Any) -> int:
        return os.getpid()


# Words only.


@pytest.mark.parametrize("args", [["--help"], ["-h"]])
def test_help_shows_the_verbs_and_a_first_look(args: list[str]) -> None:
    result = CliRunner().invoke(cli, args, prog_name="tagtrail")
    assert result.exit_code == 0
    for text in ("start", "status", "shutdown", "tagtrail demo", "ray start --head"):
        assert text in result.output


def test_help_has_each_step_of_the_first_session_on_a_line_of_its_own() -> None:
    lines = CliRunner().invoke(cli, ["--help"], prog_name="tagtrail").output.splitlines()
    steps = ("ray start --head", "tagtrail start", "python deploy.py", "tagtrail status")
    for step in steps:
        assert any(line.strip().startswith(f"{step}  ") for line in lines), step


@pytest.mark.parametrize(
    "verb",
    [
        *("start", "status", "shutdown", "deploy", "diff", "logs", "trace", "top"),
        *("grafana", "doctor", "demo"),
    ],
)
def test_each_verb_has_help_of_its_own(verb: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


@pytest.mark.parametrize(
    "args",
    [["dance"], ["start", "--http-location", "Moon"], ["demo", "--images", "0"], ["deploy"]],
)
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_python_m_serve_is_the_same_command() -> None:
    done = typed_tagtrail("--help", columns=82)  # click has 80 of them in this process
    assert done.returncode == 0
    assert done.stdout == tagtrail("--help").stdout


@pytest.mark.parametrize("verb", ["start", "status", "shutdown", "diff examples/app.yaml"])
def test_without_a_ray_cluster_it_says_how_to_start_one(verb: str) -> None:
    run = typed_tagtrail if "diff" in verb else tagtrail  # which is typed nowhere else
    done = run("--address", "127.0.0.1:1", *verb.split())
    assert done.returncode == 1
    assert "Error: No Ray cluster found at '127.0.0.1:1'" in done.stderr
    assert "ray start --head" in done.stderr
    assert "Traceback" not in done.stderr


# Against a cluster.


def test_start_status_and_shutdown(no_instance: None, ray_address: str, http_port: int) -> None:
    started = typed_tagtrail("--address", ray_address, "start", "--http-port", str(http_port))
    assert started.returncode == 0, started.stderr
    assert f"http://127.0.0.1:{http_port}" in started.stdout
    assert httpx.get(f"http://127.0.0.1:{http_port}/-/healthz").status_code == 200

    status = typed_tagtrail("--address", ray_address, "status")
    assert status.returncode == 0, status.stderr
    assert f"127.0.0.1:{http_port}" in status.stdout

    again = tagtrail("--address", ray_address, "start", "--http-port", str(http_port))
    assert again.returncode == 1
    assert "already running" in again.stderr

    ended = typed_tagtrail("--address", ray_address, "shutdown")
    assert ended.returncode == 0, ended.stderr
    assert run_folders(http_port) == []


@pytest.mark.parametrize("verb", ["status", "shutdown"])
def test_without_an_instance_it_says_how_to_start_one(
    no_instance: None, ray_address: str, verb: str
) -> None:
    done = tagtrail("--address", ray_address, verb)
    assert done.returncode == 1
    assert "No detached instance runs" in done.stderr
    assert "tagtrail start" in done.stderr


def test_the_doctor_needs_an_instance_and_says_how_to_start_one(
    no_instance: None, ray_address: str
) -> None:
    done = tagtrail("--address", ray_address, "doctor", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [s["outcome"] for s in report["stations"]] == ["ok", "failed"]
    assert (report["stopped_at"], report["stations"][1]["next"]) == ("instance", "tagtrail start")


def test_status_tells_what_runs_as_a_table_and_as_json(no_instance: None, ray_address: str) -> None:
    serve.start(detached=True, http_options={"location": "NoServer"})
    serve.create_backend("shown", lambda: "x", ray_actor_options={"num_cpus": 0})
    serve.create_endpoint("end", backend="shown", route="/end")
    table = tagtrail("--address", ray_address, "status")
    assert table.returncode == 0, table.stderr
    assert re.search(r"end\s.*/end\s.*GET\s.*shown 1", table.stdout)
    assert re.search(r"shown \(1 of 1 running\).*shown#[a-zA-Z]{6}.*RUNNING", table.stdout)

    described = json.loads(tagtrail("--address", ray_address, "status", "--json").stdout)
    assert described["healthy"] is True
    assert described["endpoints"][0]["traffic"] == {"shown": 1.0}
    (backend,) = described["backends"]
    assert (backend["tag"], backend["running"], backend["last_error"]) == ("shown", 1, None)


def test_a_command_ends_without_waiting_for_what_nobody_prints(
    no_instance: None, ray_address: str
) -> None:
    code = (
        "import sys, time\n"
        "sleep = time.sleep\n"
        "time.sleep = lambda seconds: print('slept', seconds) or sleep(seconds)\n"
        "from serve.command.cli import main\n"
        f"sys.argv = ['tagtrail', '--address', {ray_address!r}, 'logs', '-n', '1']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=script_env(None),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # whether or not there are records
    assert "slept" not in done.stdout


NODE_DIES = """
    import sys, time, ray
    from serve.command.cluster import reach_ray
    reach_ray(sys.argv[1])
    from ray._private.utils import publish_error_to_driver
    for number in range(600):
        told = f"node {number} is dead"
        publish_error_to_driver("tests", told, ray._private.worker.global_worker.gcs_client)
        time.sleep(0.1)
"""


def test_what_ray_says_of_the_cluster_is_not_on_stdout(
    ray_cluster: None, ray_address: str, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, str(write_script(NODE_DIES, tmp_path)), ray_address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=script_env({}),
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert any("is dead" in line for line in process.stderr)
    finally:
        process.kill()
    assert process.stdout.read() == ""
    process.communicate(timeout=60)


def test_status_exits_with_3_and_the_error_when_a_backend_is_not_at_its_goal(
    no_instance: None, ray_address: str, tmp_path: Path
) -> None:
    client = serve.start(detached=True, http_options={"location": "NoServer"})
    file = tmp_path / "sabotage"
    serve.create_backend("broken", Sabotaged, str(file), ray_actor_options={"num_cpus": 0})
    serve.create_endpoint("broken", backend="broken")
    pid = serve.get_handle("broken").call().result(60)
    file.touch()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "broken" in client.status().observed.failures)
    done = tagtrail("--address", ray_address, "status", "--json")
    assert done.returncode == 3, done.stderr
    assert "RuntimeError: sabotaged" in json.loads(done.stdout)["backends"][0]["last_error"]


# The demo.


@pytest.mark.slow
def test_the_demo_shows_who_answered_and_leaves_nothing(http_port: int) -> None:
    done = typed_tagtrail("demo", "--images", "30", "--port", str(http_port), timeout_s=150)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("digits_v1#", "Accuracy", "p50 ms", "p99 ms", "RUNNING", "shut down"):
        assert text in done.stdout
    assert re.search(r"\d+\.\d%", done.stdout)
    assert run_folders(http_port) == []
