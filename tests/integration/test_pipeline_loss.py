"""Agents and stores that go and come while replicas write at full rate: no record is lost.

Two replicas, segments that turn over, the agent killed by SIGKILL and started again twice, the
store away for 20 s, one replica killed by SIGKILL: all that the segments hold is in the store.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Deploy, Instance
from tests.integration.pipelines import make_pipeline
from tests.integration.processes import wait_until
from tests.integration.records import read_records, segments
from tests.integration.test_pipeline import INTO_LOKI, padded

RECORDS = 100_000
A_REQUEST = 500
CLIENTS = 4
SEGMENT_BYTES = 1024 * 1024
AWAY_S = 20
ARRIVAL_S = 150


def speak(request: Any) -> int:
    logger = logging.getLogger("loss")
    for number in range(A_REQUEST):
        logger.info("spoken %d", number)
    return os.getpid()


class Clients:
    """They ask until all records are written; a request that failed is asked again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._left = RECORDS // A_REQUEST
        self._lock = threading.Lock()
        self.pids: set[int] = set()
        self.answered = 0

    def ask(self) -> None:
        with httpx.Client(timeout=60) as http:
            while self._take():
                answer = http.get(self._url)
                with self._lock:
                    if answer.status_code == 200:
                        self.answered += 1
                        self.pids.add(int(answer.text))
                    else:
                        self._left += 1

    def _take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def has_answered(self, share: float) -> bool:
        return self.answered >= share * RECORDS / A_REQUEST


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["victoria", *INTO_LOKI])
def test_every_record_is_in_the_store_whoever_was_away(
    kind: str, instance: Instance, bring_up: Deploy, ray_folder: Path, tmp_path: Path
) -> None:
    made = make_pipeline(kind, tmp_path, ray_folder)
    logging_config = {"stderr": False, "segment_bytes": SEGMENT_BYTES}
    name = bring_up(speak, num_replicas=2, logging_config=logging_config)
    with made.running() as pipeline, ThreadPoolExecutor(CLIENTS) as pool:
        clients = Clients(instance.url(f"/{name}"))
        asking = [pool.submit(clients.ask) for _ in range(CLIENTS)]

        wait_until(lambda: clients.has_answered(0.2), 120)
        pipeline.agent.kill()
        pipeline.agent.start()
        wait_until(lambda: clients.has_answered(0.4) and len(clients.pids) == 2, 120)
        os.kill(next(iter(clients.pids)), signal.SIGKILL)
        pipeline.store.stop()
        away_until = time.monotonic() + AWAY_S
        wait_until(lambda: clients.has_answered(0.6), 120)
        pipeline.agent.kill()
        pipeline.agent.start()
        wait_until(lambda: time.monotonic() > away_until, AWAY_S + 5)
        pipeline.store.start()
        for done in asking:
            done.result(300)

        written = Counter(
            (record["replica"], record["time"])
            for record in read_records(
                lambda record: record.get("backend") == name and record.get("logger") == "loss",
                name=f"replica_{name}#",
                may_end_half=name,
            )
        )
        assert written.total() >= RECORDS and set(written.values()) == {1}
        assert len({replica for replica, _ in written}) >= 2
        assert len(segments(f"replica_{name}#")) > 6

        def arrived() -> Counter[tuple[str, str]]:
            times = pipeline.ask.times(name, "spoken")
            return Counter((replica, padded(moment)) for replica, moment in times)

        def lacking() -> int:
            return len(written - arrived())

        wait_until(lambda: lacking() == 0, ARRIVAL_S)
        found = arrived()
        assert set(found) == set(written)
        if kind in INTO_LOKI:  # it takes a line of the same stream and time once
            assert found == written
        else:
            print(f"{found.total() - written.total()} of {written.total()} were sent twice")
