"""Programs of the pipeline, each with free ports and a folder of its own, ended with the block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from observability.stack.programs import PROMETHEUS, VICTORIA_LOGS, VLAGENT, Program
from tests.conftest import free_port
from tests.integration.processes import wait_until
from tests.integration.programs import require

READY_S = 30
END_S = 20


@contextmanager
def run_victoria_logs(folder: Path) -> Iterator[str]:
    """VictoriaLogs; its address."""
    port = free_port()
    options = (f"-storageDataPath={folder}/data", f"-httpListenAddr=127.0.0.1:{port}")
    with _run(VICTORIA_LOGS, folder, f"http://127.0.0.1:{port}", "/health", *options) as url:
        yield url


@contextmanager
def run_vlagent(folder: Path, segments: Path, store: str) -> Iterator[str]:
    """vlagent, which brings segments to a VictoriaLogs; its address."""
    port = free_port()
    options = (
        f"-fileCollector.glob={segments}/*.log",
        "-fileCollector.timeField=time",
        "-fileCollector.msgField=message",
        "-fileCollector.streamFields=component,backend,level",
        "-fileCollector.refreshInterval=1s",
        f"-fileCollector.checkpointsPath={folder}/checkpoints.json",
        f"-remoteWrite.url={store}/internal/insert",
        f"-remoteWrite.tmpDataPath={folder}/buffer",
        f"-httpListenAddr=127.0.0.1:{port}",
    )
    with _run(VLAGENT, folder, f"http://127.0.0.1:{port}", "/health", *options) as url:
        yield url


@contextmanager
def run_prometheus(folder: Path, jobs: list[dict[str, Any]]) -> Iterator[str]:
    """Prometheus, which looks every second; its address."""
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with _run(PROMETHEUS, folder, f"http://127.0.0.1:{port}", "/-/ready", *options) as url:
        yield url


@contextmanager
def _run(program: Program, folder: Path, url: str, ready: str, *options: str) -> Iterator[str]:
    path = require(program)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([path, *options], stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_ready(f"{url}{ready}", process, folder), READY_S)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        finally:
            process.kill()
            process.wait()


def _is_ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
