"""What fails in a process that goes on is seen: in `tagtrail status`, its metric and its record."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import serve
from serve.status import describe
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import haproxies, masters, run_folders, wait_until
from tests.integration.records import read_records
from tests.integration.samples import greet
from tests.integration.series import page, total

pytestmark = pytest.mark.usefixtures("instance")

FAILURES = "ray_serve_task_failures_total"
KEEPER = "ingress keeper"


@pytest.fixture(scope="module")
def greeter(keep: Deploy) -> str:
    """A backend of `greet`, at `/greet`."""
    return keep(greet, route="/greet")


def status() -> dict[str, Any]:
    client = serve.connect()
    return describe(client.status(), "controller")


@contextlib.contextmanager
def port_taken(port: int) -> Iterator[None]:
    """Whoever lets go of the port does not get it again."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        yield


def test_a_keeper_that_cannot_start_haproxy_is_seen_until_it_can(
    instance: Instance, greeter: str
) -> None:
    assert status()["healthy"]
    (folder,) = run_folders(instance.port)
    with port_taken(instance.port):
        for pid in masters(folder):
            os.kill(pid, signal.SIGKILL)
        (trouble,) = wait_until(lambda: status()["troubles"])
        assert f"{KEEPER} is failing since " in trouble
        assert f"'127.0.0.1:{instance.port}'" in trouble
        assert not status()["healthy"]
        wait_until(lambda: total(page(), FAILURES, component="ingress", task=KEEPER) > 1)
        told = read_records(
            lambda r: r["level"] == "ERROR" and f"{KEEPER} failed" in r.get("message", "")
        )
        assert "Failed to bind" in told[-1]["exception"]
    wait_until(lambda: status()["healthy"])
    assert instance.http.get("/greet").status_code == 200


def test_a_haproxy_that_hangs_is_seen_until_it_goes_on(instance: Instance) -> None:
    (folder,) = run_folders(instance.port)
    hanging = haproxies(folder)
    for pid in hanging:
        os.kill(pid, signal.SIGSTOP)
    try:
        (trouble,) = wait_until(lambda: status()["troubles"])
        assert "HAProxy did not answer" in trouble
    finally:
        for pid in hanging:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: status()["healthy"])


def test_an_ingress_whose_folder_was_cleaned_away_takes_changes_again(
    instance: Instance, greeter: str
) -> None:
    (folder,) = run_folders(instance.port)
    shutil.rmtree(folder)
    serve.create_endpoint("late", backend=greeter, route="/late")
    assert instance.http.get("/late").status_code == 200
    assert run_folders(instance.port) == [folder]
