"""What is said right before a polite end is in the segments, up to the last line."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

import serve
from serve.ids import NAMESPACE
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import is_alive, wait_until
from tests.integration.records import read_records
from tests.integration.samples import QUICK

logger = logging.getLogger("last_words")


class Chatty:
    """Talks all the time in a thread of its own, and notes in a file what it has said."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        threading.Thread(target=talk, args=(self.folder / "said",), daemon=True).start()

    def __call__(self, request: Any) -> int:
        logger.info("handled")
        return os.getpid()

    def __del__(self) -> None:
        logger.info("farewell")
        (self.folder / "farewell").touch()


def talk(path: Path) -> None:
    said = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        number += 1
        logger.info("talk %d", number)
        os.write(said, b"%d\n" % number)
        time.sleep(0.001)


class Clinging(Chatty):
    """Does not let go, and keeps its event loop with it."""

    async def __call__(self, request: Any) -> int:
        return os.getpid()

    def __del__(self) -> None:
        (self.folder / "clings").touch()
        time.sleep(3600)


class Stillborn:
    """Talks, and can't be made."""

    def __init__(self, folder: str) -> None:
        threading.Thread(target=talk, args=(Path(folder) / "said",), daemon=True).start()
        for number in range(100):
            logger.info("birth %d", number)
        raise RuntimeError("stillborn")


def unrecorded(backend: str, folder: Path) -> list[int]:
    """What was said after the log call had returned and is in no segment."""
    told = {
        record["message"]
        for record in read_records(lambda record: record.get("backend") == backend)
        if record["kind"] == "log"
    }
    said = [int(line) for line in (folder / "said").read_bytes().split(b"\n")[:-1]]
    assert said
    return [number for number in said if f"talk {number}" not in told]


def messages(backend: str) -> list[str]:
    return [
        record["message"]
        for record in read_records(lambda record: record.get("backend") == backend)
        if record["kind"] == "log"
    ]


@pytest.mark.parametrize("turn", range(3))
def test_a_replica_that_is_stopped_loses_nothing_it_said_until_it_was_killed(
    instance: Instance, bring_up: Deploy, tmp_path: Path, turn: int
) -> None:
    tag = f"stopped_{turn}"
    serve.create_backend(tag, Chatty, str(tmp_path), config=QUICK)
    serve.create_endpoint(tag, backend=tag, route=f"/{tag}")
    pid = instance.http.get(f"/{tag}").json()
    serve.delete_endpoint(tag)
    serve.delete_backend(tag)
    wait_until(lambda: not is_alive(pid))
    assert unrecorded(tag, tmp_path) == []
    assert (tmp_path / "farewell").exists()
    assert {"handled", "farewell"} <= set(messages(tag))


def test_a_replica_whose_controller_is_gone_for_good_loses_nothing_either(
    ray_cluster: None, tmp_path: Path
) -> None:
    client = serve.start(http_options={"location": "NoServer"})
    try:
        serve.create_backend("orphan", Chatty, str(tmp_path), config=QUICK)
        serve.create_endpoint("orphan", backend="orphan")
        pid = serve.get_handle("orphan").call().result(30)
        clinging = tmp_path / "clinging"
        clinging.mkdir()
        serve.create_backend("clinging", Clinging, str(clinging), config=QUICK)
        serve.create_endpoint("clinging", backend="clinging")
        clinging_pid = serve.get_handle("clinging").call().result(30)
        controller = ray.get_actor(client.controller_name, namespace=NAMESPACE)
        ray.kill(controller, no_restart=True)
        wait_until(lambda: not is_alive(pid))
        assert unrecorded("orphan", tmp_path) == []
        said = messages("orphan")
        assert "farewell" in said
        assert any("is gone for good: this replica ends" in message for message in said)
        wait_until(lambda: not is_alive(clinging_pid))
        assert (clinging / "clings").exists()
    finally:
        serve.shutdown()


def test_a_constructor_that_raises_loses_nothing_it_said_before(
    instance: Instance, tmp_path: Path
) -> None:
    with pytest.raises(serve.BackendStartError, match="stillborn"):
        serve.create_backend("stillborn", Stillborn, str(tmp_path), config=QUICK)
    assert "birth 99" in messages("stillborn")
    assert unrecorded("stillborn", tmp_path) == []
