"""What all tests share: one Ray cluster for the session, free ports, and nothing left behind."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody has now; another one each time it is asked for.

    Not one that the system would give: those are the local ends of connections too, of which a
    test session has many, and one of them could take the port before its user binds it. Below
    them, and above the ports of Ray's workers.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """A short temporary folder for Ray (its socket paths are limited), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_metrics_port() -> int:
    """Port of the session's Ray metrics, as `ray start --metrics-export-port` sets it."""
    return free_port()


@pytest.fixture(scope="session")
def ray_cluster(ray_folder: Path, ray_metrics_port: int) -> Iterator[None]:
    """One Ray cluster for the whole session, with its own ports and folder."""
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    )
    ray.init(
        address="local",
        num_cpus=16,  # replicas ask for one each; the machine's own count would limit the tests
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(ray_folder),
        resources={"Spare": 4},
        _metrics_export_port=ray_metrics_port,
        _system_config={"metrics_report_interval_ms": 1000},  # Ray's own: 10 s
    )
    yield
    ray.shutdown()


@pytest.fixture
def ray_address(ray_cluster: None) -> str:
    """The session's Ray cluster, for scripts and commands in processes of their own."""
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


@pytest.fixture
def http_port() -> int:
    """A free port for one test's instance."""
    return free_port()
