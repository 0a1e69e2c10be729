"""Each script of examples/ as a reader runs it: a process of its own, on a real Ray."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import free_port
from tests.integration.clusters import (
    END_S,
    Node,
    descendants,
    head_node,
    user_environment,
    wait_until_gone,
)
from tests.integration.processes import hear_ctrl_c

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
SERVING = re.compile(r"RayServeReplica_|IngressActor|ray::Controller|haproxy|ingress-guard")
SCRIPT_S = 90


class Cluster(Node):
    """A Ray cluster, and what readers do with it."""

    def run(self, *command: str, cwd: str | None = None, **environment: str) -> str:
        """Run a command against the cluster; what it printed."""
        done = subprocess.run(
            [sys.executable, *command],
            env={**self.environment, **environment},
            cwd=cwd or self.environment["RAY_TMPDIR"],  # a reader may be anywhere
            capture_output=True,
            text=True,
            timeout=SCRIPT_S,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def count(self, name: str, **tags: str) -> float:
        """The sum of a metric's series with these tags, on Ray's metrics port."""
        text = httpx.get(f"http://127.0.0.1:{self.metrics_port}", timeout=30).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and tags.items() <= sample.labels.items()
        )

    def serving(self) -> list[str]:
        """Names of the cluster's processes that belong to a Serve instance."""
        titles = [_title(pid) for pid, _ in descendants(self.pid)]
        return [title for title in titles if SERVING.search(title)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Ray's temporary folder; short, as its socket paths are limited."""
    path = Path(tempfile.mkdtemp(prefix="te", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """The environment of what the tests start."""
    return user_environment(folder)


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str], folder: Path) -> Iterator[Cluster]:
    """A cluster on ports of its own."""
    with head_node(environment, folder, "--include-dashboard=false") as node:
        yield Cluster(*astuple(node))


@pytest.fixture
def instance_port(cluster: Cluster) -> Iterator[int]:
    """The port of a detached instance that `tagtrail start` made."""
    port = free_port()
    cluster.run("-m", "serve", "start", "--http-port", str(port))
    yield port
    cluster.run("-m", "serve", "shutdown")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_single_file_serves_until_it_is_ended_and_takes_ray_with_it(
    environment: dict[str, str], ending: signal.Signals
) -> None:
    port = free_port()
    alone = environment | {"RAY_ADDRESS": "local", "PORT": str(port)}
    with start_script("single_file.py", alone) as process:
        read_lines(process, r"\{'my_backend': BackendConfig\(num_replicas=1", 1)
        answer = httpx.get(f"http://127.0.0.1:{port}/hello").text
        started = descendants(process.pid)
        output = end_script(process, ending)

    assert answer == "hello"
    # Right after a call a driver that gets SIGTERM may abort on its way out (seen with Ray 2.60).
    expected = {0} if ending is signal.SIGINT else {signal.SIGTERM, -signal.SIGABRT}
    assert process.returncode in expected
    assert "Traceback" not in output
    assert started
    assert wait_until_gone(started) == []


def test_connect_to_cluster_deploys_on_the_instance_of_tagtrail_start(
    cluster: Cluster, instance_port: int
) -> None:
    output = cluster.run(str(EXAMPLES / "connect_to_cluster.py"))

    assert "'route': '/hello', 'methods': ['GET'], 'traffic': {'my_backend': 1.0}" in output
    assert httpx.get(f"http://127.0.0.1:{instance_port}/hello").text == "hello"


def test_counter_logging_counts_to_ten_and_logs_each_count(
    cluster: Cluster, instance_port: int
) -> None:
    output = cluster.run(str(EXAMPLES / "counter_logging.py"), PORT=str(instance_port))

    assert re.findall(r"\{'count': (\d+)\}", output) == [str(count) for count in range(1, 11)]
    answer = httpx.get(f"http://127.0.0.1:{instance_port}/counter")
    assert answer.json() == {"count": 11}
    suffix = r"component=serve backend=\w+ replica=\w+#[A-Za-z]{6}"
    wait_for(lambda: re.search(rf"\tINFO .*count: 11 {suffix}$", worker_logs(cluster), re.M))


def test_hello_answers_on_all_addresses_and_stays(cluster: Cluster) -> None:
    port = free_port()
    cluster.run(str(EXAMPLES / "hello.py"), PORT=str(port))
    try:
        for address in ("127.0.0.1", "127.0.0.2"):  # the second only with 0.0.0.0
            assert httpx.get(f"http://{address}:{port}/hello").text == "hello world"
    finally:
        cluster.run("-m", "serve", "shutdown")
    wait_for(lambda: not cluster.serving())


def test_replica_logger_logs_in_both_ways(cluster: Cluster) -> None:
    cluster.run(str(EXAMPLES / "replica_logger.py"))

    wait_for(lambda: not cluster.serving())
    logs = worker_logs(cluster)
    assert re.search(
        r"INFO replica_logger\.py:\d+ -- Some info! "
        r"component=serve backend=my_backend replica=my_backend#[A-Za-z]{6}$",
        logs,
        re.M,
    )
    own_line = r"INFO Some more info! backend=my_other_backend replica=my_other_backend#\w{6}\n"
    assert re.search(own_line, logs)


def test_metrics_loop_calls_once_a_second_until_ctrl_c(cluster: Cluster) -> None:
    with start_script("metrics_loop.py", cluster.environment) as process:
        lines = read_lines(process, r"answered in \d", 3)
        output = end_script(process, signal.SIGINT)

    seconds = [float(re.findall(r"\d+\.\d+", line)[0]) for line in lines]
    assert all(second >= 1 for second in seconds)  # how much more, the machine decides
    assert process.returncode == 0
    assert "Traceback" not in output
    wait_for(lambda: not cluster.serving())
    counter = "ray_serve_backend_request_counter_total"
    wait_for(lambda: cluster.count(counter, backend="f") >= len(lines))


def test_custom_counter_counts_excellent_requests_only(cluster: Cluster) -> None:
    output = cluster.run(str(EXAMPLES / "custom_counter.py"))

    assert re.findall(r"^(?:not )?counted$", output, re.M) == ["counted", "not counted"]
    wait_for(lambda: not cluster.serving())
    wait_for(lambda: cluster.count("ray_my_counter_total", backend="my_backend") == 1)


def test_direct_calls_reach_a_backend_and_one_behind_it(cluster: Cluster) -> None:
    output = cluster.run(str(EXAMPLES / "direct_calls.py"))

    assert re.search(r"^3$", output, re.M)
    assert "{'left': 3, 'right': 5, 'longer': 'right'}" in output
    wait_for(lambda: not cluster.serving())


def test_fastapi_app_converts_and_refuses_parameters(cluster: Cluster) -> None:
    output = cluster.run(str(EXAMPLES / "fastapi_app.py"), PORT=str(free_port()))

    assert "{'message': 'Hello Ada!'}" in output
    assert "{'message': 'Hello Ada! Hello Ada!'}" in output
    assert "422 Input should be a valid integer" in output
    wait_for(lambda: not cluster.serving())


def test_app_is_deployed_from_its_folder_and_then_as_it_says(cluster: Cluster) -> None:
    port = free_port()
    start = ("-m", "serve", "start", "--http-port", str(port))
    cluster.run(*start, cwd=str(EXAMPLES))  # "counter_app.py" is found there
    try:
        output = cluster.run("-m", "serve", "deploy", str(EXAMPLES / "app.yaml"))
        assert "backend counter_v2 made" in output
        assert "endpoint counter made" in output
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/hello?name=Ada").text == "hello Ada"
        counts = {httpx.post(f"{url}/counter").json()["count"] for _ in range(100)}
        assert {1, 1010} <= counts  # of 100, the second one gets some
        assert "Nothing to do." in cluster.run("-m", "serve", "deploy", str(EXAMPLES / "app.yaml"))
    finally:
        cluster.run("-m", "serve", "shutdown")
    wait_for(lambda: not cluster.serving())


def test_every_script_is_run_by_a_test_and_listed_in_the_readme() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    own_text = Path(__file__).read_text()
    own_text += Path(__file__).with_name("test_following_page.py").read_text()  # it runs one more
    readme = (EXAMPLES / "README.md").read_text()

    assert {name for name in scripts if f'"{name}"' not in own_text} == set()
    assert {name for name in scripts if f"({name})" not in readme} == set()


# Processes.


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@contextlib.contextmanager
def start_script(name: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A script that runs until the test ends it; at the latest when the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / name)],
        env=environment,
        cwd=environment["RAY_TMPDIR"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for pid, _ in descendants(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.kill()


def end_script(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send the signal as a terminal does, to the script; what it printed since."""
    process.send_signal(number)
    output, _ = process.communicate(timeout=SCRIPT_S)
    return output


def read_lines(process: subprocess.Popen[str], pattern: str, count: int) -> list[str]:
    """The first lines of its output that match."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if re.match(pattern, line):
            lines.append(line)
        if len(lines) == count:
            return lines
    raise AssertionError(f"The script ended after {lines}.")


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_S
    while not holds():
        assert time.monotonic() < deadline, "It did not come true in time."
        time.sleep(0.2)


def worker_logs(cluster: Cluster) -> str:
    """What the cluster's workers wrote to their standard error."""
    folder = Path(cluster.environment["RAY_TMPDIR"])
    files = folder.glob("session_latest/logs/worker-*.err")
    return "".join(path.read_text() for path in files)
