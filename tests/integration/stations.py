"""Programs of the pipeline, each with free ports and a folder of its own, ended with the block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from observability.stack.records import PROMETHEUS
from tests.conftest import free_port
from tests.integration.keeper import Keeper
from tests.integration.pipelines import make_keepers
from tests.integration.programs import require


@contextmanager
def run_victoria_logs(folder: Path) -> Iterator[str]:
    """VictoriaLogs; its address."""
    ((keeper, url),) = make_keepers(("victoria-logs",), folder, folder)
    with keeper.running():
        yield url


@contextmanager
def run_vlagent(folder: Path, ray_folder: Path, store: str) -> Iterator[str]:
    """vlagent, which brings what is in a folder of Ray to a VictoriaLogs; its address."""
    port = int(store.rpartition(":")[2])
    ((keeper, url),) = make_keepers(("vlagent",), folder, ray_folder, victoria_logs=port)
    with keeper.running():
        yield url


@contextmanager
def run_prometheus(
    folder: Path, jobs: list[dict[str, Any]], rule_files: list[str] | None = None
) -> Iterator[str]:
    """Prometheus, which looks every second; its address."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": jobs,
        "rule_files": rule_files or [],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    url = f"http://127.0.0.1:{port}"
    command = [str(require(PROMETHEUS)), *options]
    with Keeper(command, f"{url}/-/ready", folder / "log").running():
        yield url
