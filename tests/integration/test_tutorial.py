"""docs/tutorial-loki.md, done as a reader does it: every command of it, on a Ray of its own.

With VictoriaLogs, and with Loki when its programs are handed in. Only what a reader's machine
decides is said otherwise: ports, folders; and two commands are not typed, see NOT_TYPED.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from observability.stack.records import (
    ALERTMANAGER,
    ALLOY,
    LOKI,
    PROMETHEUS,
    VICTORIA_LOGS,
    VLAGENT,
    Program,
)
from observability.stack.services import default_ports
from tests.conftest import free_port
from tests.integration.clusters import head_node, user_environment
from tests.integration.command import type_in
from tests.integration.processes import ROOT
from tests.integration.programs import require

PAGE = ROOT / "docs" / "tutorial-loki.md"
ARRIVAL_S = 90
NOT_TYPED = {
    "ray start --head --metrics-export-port=8080": "the cluster is there, on ports of its own",
    "ray stop": "it would end every Ray of the machine, other tests' too",
}
PROGRAMS: dict[str, tuple[Program, ...]] = {
    "victoria": (VICTORIA_LOGS, VLAGENT, PROMETHEUS, ALERTMANAGER),
    "loki": (LOKI, ALLOY, PROMETHEUS, ALERTMANAGER),
}
SHOWN = {
    "tagtrail start": r"Serve runs and listens on http://127\.0\.0\.1:\d+",
    "tagtrail stack up": r"prometheus +starting \.\.\. healthy",
    "python examples/counter_logging.py": r"\{'count': 10\}",
    '|= "backend=my_backend"': r"count: 1 component=serve backend=my_backend replica=my_backend#",
    '"backend=my_backend"': r"count: 1 component=serve backend=my_backend replica=my_backend#",
    "count_over_time": r'"replica":"my_backend#\w{6}"',
    "stats by (replica) count()": r'"replica":"my_backend#\w{6}","count\(\*\)":"2\d"',
    "tagtrail logs --backend my_backend --loki": r"INFO .*count: 1\b",
    "curl -si -H 'X-Request-ID: tutorial-1'": r"x-request-id: tutorial-1\b",
    "tagtrail trace tutorial-1 --loki": r"GET /counter +200 +my_backend#(?s:.*)count: 11",
    "tagtrail trace tutorial-1": r"GET /counter +200 +my_backend#(?s:.*)count: 11",
    '|= "tutorial-1"': r"count: 11",
    'request_id:="tutorial-1"': r"count: 11",
    "ray_serve_endpoint_requests_total": r'"endpoint":"my_endpoint"\},"value":\[[\d.]+,"11"\]',
    "tagtrail doctor --path /counter": r"prometheus",
    "tagtrail stack down": r"prometheus +stopped",
    "tagtrail shutdown": r"Serve is shut down",
}
"""What one sees, by a part of the command; the first that fits."""


@dataclass
class Reader:
    """A reader's shell.

    Attributes:
        environment: of each command.
        ports: port by the name of a service, and `http`.
        stack_folder: what `tagtrail stack` keeps.
        store: the one that is used.
    """

    environment: dict[str, str]
    ports: dict[str, int]
    stack_folder: Path
    store: str

    def type(self, command: str) -> str:
        """What the command, on this machine's ports, prints; AssertionError when it fails."""
        done = type_in(self._of_this_machine(command), self.environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _of_this_machine(self, command: str) -> str:
        moved = {port: self.ports[name] for name, port in default_ports().items()}
        moved[8000] = self.ports["http"]
        command = re.sub(
            r"(localhost|127\.0\.0\.1):(\d+)",
            lambda match: f"{match[1]}:{moved[int(match[2])]}",
            command,
        )
        if command == "tagtrail start":
            return f"{command} --http-port {self.ports['http']}"
        if command.startswith("tagtrail stack "):
            command += f" --folder {self.stack_folder}"
        if command.startswith("tagtrail stack up"):
            command += f" --ray-folder {self.environment['RAY_TMPDIR']}"
            names = [program.name for program in PROGRAMS[self.store]]
            command += "".join(f" --only {name}" for name in names)
            return command + "".join(
                f" --port {name}={self.ports[name]}" for name in default_ports()
            )
        if command.startswith("tagtrail doctor"):
            store = "loki" if self.store == "loki" else "victoria-logs"
            for name in (store, "prometheus"):
                command += f" --{name} http://127.0.0.1:{self.ports[name]}"
        return command


@contextmanager
def reader(store: str) -> Iterator[Reader]:
    folder = Path(tempfile.mkdtemp(prefix="tu", dir="/tmp"))  # Ray's socket paths are limited
    environment = user_environment(folder)
    programs = Path(sys.executable).parent
    ports = {name: free_port() for name in (*default_ports(), "http")}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
        "PORT": str(ports["http"]),
    }
    options = ("--include-dashboard=true", f"--dashboard-port={free_port()}")
    try:
        with head_node(environment, folder, *options) as node:
            made = Reader(node.environment, ports, folder / "stack", store)
            try:
                yield made
            finally:
                made.type("tagtrail stack down")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commands(store: str) -> list[str]:
    """The lines of the blocks for every reader, and of those for readers with this store."""
    blocks = re.findall(r"^```sh ?(\w*)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [
        line for kind, block in blocks if kind in ("", store) for line in block.splitlines() if line
    ]


def what_is_shown(command: str) -> str:
    return next(pattern for part, pattern in SHOWN.items() if part in command)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["victoria", "loki"])
def test_every_command_does_what_the_page_says(store: str) -> None:
    for program in PROGRAMS[store]:
        require(program)
    typed = [command for command in commands(store) if command not in NOT_TYPED]
    assert len(typed) >= 10
    with reader(store) as user:
        for command in typed:
            pattern = what_is_shown(command)
            shown = user.type(command)
            deadline = time.monotonic() + ARRIVAL_S
            while not re.search(pattern, shown):  # what was said a moment ago is on its way
                is_question = command.startswith(("curl -s ", "curl -sG ", "tagtrail logs"))
                assert is_question and time.monotonic() < deadline, f"{command}\n{shown}"
                time.sleep(0.5)
                shown = user.type(command)
        for name in ("prometheus", "http"):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{user.ports[name]}", timeout=5)


def test_the_commands_that_are_not_typed_are_on_the_page() -> None:
    assert set(NOT_TYPED) <= set(commands("victoria"))
