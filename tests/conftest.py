"""What all tests share: one Ray cluster for the session, free ports, and nothing left behind.

Two workers may run the files of one session (`pytest -n 2`): each has a session of its own, so a
cluster, a folder and ports of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No upper bounds of time: on a busy machine they measure the machine. `make unit` asks for few.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", settings.get_profile("full"), max_examples=10)
settings.load_profile("full")

LONGEST = Path(__file__).parent / "longest.txt"
"""Files and the seconds they took, the longest first: `test-results/longest.txt` of a run."""

_given: set[int] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: the longest files first, so that all end at about the same time."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(
                f"{item.nodeid} is called otherwise in each process. Expected an id that stays: "
                "give 'ids' to its parametrize."
            )
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {line.split()[1]: place for place, line in enumerate(read_longest())}
        items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], -1))


def read_longest() -> list[str]:
    """A line for each file; one that has none is new, and goes first."""
    return LONGEST.read_text().splitlines()


def port_range() -> range:
    """The ports that this process may give: a share of its own for each of xdist's workers.

    Not one that the system would give: those are the local ends of connections too, of which a
    test session has many, and one of them could take the port before its user binds it. Below
    them, and above the ports of Ray's workers.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = 12_000 // max(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), worker + 1)
    return range(20_000 + worker * share, 20_000 + (worker + 1) * share)


def free_port() -> int:
    """A TCP port that nobody has now; another one each time it is asked for."""
    while True:
        port = random.choice(port_range())
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
