"""Log agents and stores as deploy/ has them, on free ports: segments in, records out.

Real programs. `victoria` is built by `make tools`; Loki, Promtail and Alloy are handed in.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from observability.deployed import deploy_folder
from observability.stack.programs import ALLOY, LOKI, PROMTAIL, VICTORIA_LOGS, VLAGENT
from tests.conftest import free_port
from tests.integration.processes import wait_until
from tests.integration.programs import require

START_S = 60
Record = dict[str, Any]


@dataclass
class Keeper:
    """One program: started, killed, started again.

    Attributes:
        command: what starts it.
        health: URL that answers 200 when it is up.
        log: file of what it says.
    """

    command: list[str]
    health: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self._is_up, START_S)

    def kill(self) -> None:
        """As a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return httpx.get(self.health, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, how: int) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None


class Store(Protocol):
    """What a log store is asked in tests."""

    url: str

    def find(self, request_id: str) -> list[Record]:
        """The records of a request."""
        ...

    def times(self, backend: str, text: str) -> list[tuple[str, str]]:
        """Replica and time of each entry whose message has a text; one that is there twice: twice.

        For Loki the number of entries is held against what a metric query counts.
        """
        ...


@dataclass
class Pipeline:
    """An agent and a store."""

    agent: Keeper
    store: Keeper
    ask: Store

    @contextmanager
    def running(self) -> Iterator[Pipeline]:
        try:
            self.store.start()
            self.agent.start()
            yield self
        finally:
            self.agent.stop()
            self.store.stop()


def make_pipeline(kind: str, folder: Path, ray_folder: Path) -> Pipeline:
    """A pipeline that reads the segments below a folder of Ray.

    Args:
        kind: victoria, promtail or alloy: its agent.
        folder: for its data.
        ray_folder: what the files of deploy/ call /tmp/ray.
    """
    make = {"victoria": _victoria, "promtail": _promtail, "alloy": _alloy}[kind]
    return make(folder, ray_folder)


def _victoria(folder: Path, ray_folder: Path) -> Pipeline:
    store_port, agent_port = free_port(), free_port()
    changes = {
        "127.0.0.1:9428": f"127.0.0.1:{store_port}",
        "127.0.0.1:9429": f"127.0.0.1:{agent_port}",
        "/tmp/victoria-logs": str(folder / "store"),
        "/tmp/vlagent": str(folder / "agent"),
        "/tmp/ray/": f"{ray_folder}/",
    }

    def flags(name: str) -> list[str]:
        text = _changed(deploy_folder() / "victoria-logs" / name, changes)
        return [line for line in text.splitlines() if not line.startswith("#")]

    url = f"http://127.0.0.1:{store_port}"
    return Pipeline(
        Keeper(
            [str(require(VLAGENT)), *flags("vlagent.flags")],
            f"http://127.0.0.1:{agent_port}/health",
            folder / "agent.log",
        ),
        Keeper(
            [str(require(VICTORIA_LOGS)), *flags("victoria-logs.flags")],
            f"{url}/health",
            folder / "store.log",
        ),
        VictoriaLogs(url),
    )


def make_loki(folder: Path) -> tuple[Keeper, Loki, dict[str, str]]:
    """A Loki, how it is asked, and what is different from the files of deploy/ for its agents."""
    port = free_port()
    changes = {
        "http_listen_port: 3100": f"http_listen_port: {port}",
        "grpc_listen_port: 9096": f"grpc_listen_port: {free_port()}",
        "/tmp/loki": str(folder / "store"),
    }
    config = folder / "loki.yaml"
    config.write_text(_changed(deploy_folder() / "loki" / "loki-local-config.yaml", changes))
    url = f"http://127.0.0.1:{port}"
    keeper = Keeper(
        [str(require(LOKI)), f"-config.file={config}"], f"{url}/ready", folder / "store.log"
    )
    return keeper, Loki(url), {"127.0.0.1:3100": f"127.0.0.1:{port}"}


def _promtail(folder: Path, ray_folder: Path) -> Pipeline:
    store, ask, changes = make_loki(folder)
    port = free_port()
    changes |= {
        "http_listen_port: 9080": f"http_listen_port: {port}",
        "/tmp/positions.yaml": str(folder / "positions.yaml"),
        "/tmp/ray/": f"{ray_folder}/",
    }
    config = folder / "promtail.yaml"
    config.write_text(_changed(deploy_folder() / "loki" / "promtail-local-config.yaml", changes))
    agent = Keeper(
        [str(require(PROMTAIL)), f"-config.file={config}"],
        f"http://127.0.0.1:{port}/ready",
        folder / "agent.log",
    )
    return Pipeline(agent, store, ask)


def _alloy(folder: Path, ray_folder: Path) -> Pipeline:
    store, ask, changes = make_loki(folder)
    port = free_port()
    config = folder / "config.alloy"
    changes["/tmp/ray/"] = f"{ray_folder}/"
    config.write_text(_changed(deploy_folder() / "alloy" / "config.alloy", changes))
    command = [
        str(require(ALLOY)),
        "run",
        f"--server.http.listen-addr=127.0.0.1:{port}",
        f"--storage.path={folder / 'agent'}",
        "--disable-reporting",
        str(config),
    ]
    agent = Keeper(command, f"http://127.0.0.1:{port}/-/ready", folder / "agent.log")
    return Pipeline(agent, store, ask)


def _changed(path: Path, changes: dict[str, str]) -> str:
    """A file's text with other addresses and folders; each must have stood in some file."""
    text = path.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


@dataclass
class VictoriaLogs:
    """Asked in LogsQL."""

    url: str

    def find(self, request_id: str) -> list[Record]:
        return self.query(f"request_id:={json.dumps(request_id)}")

    def times(self, backend: str, text: str) -> list[tuple[str, str]]:
        query = f'{{job="serve",backend="{backend}"}} {json.dumps(text)} | fields replica, _time'
        return [(record["replica"], record["_time"]) for record in self.query(query)]

    def query(self, text: str) -> list[Record]:
        answer = httpx.post(f"{self.url}/select/logsql/query", data={"query": text}, timeout=60)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


@dataclass
class Loki:
    """Asked in LogQL."""

    url: str
    limit: int = field(default=5000)

    def find(self, request_id: str) -> list[Record]:
        entries = self.entries(f'{{job="serve"}} | request_id=`{request_id}`')
        return [json.loads(line) for _, line in entries]

    def times(self, backend: str, text: str) -> list[tuple[str, str]]:
        query = f'{{job="serve", backend="{backend}"}} |= `{text}`'
        records = [json.loads(line) for _, line in self.entries(query)]
        assert self.count(query) == len(records)
        return [(record["replica"], record["time"]) for record in records]

    def count(self, query: str) -> int:
        """What a metric query counts, which sees what a log query hides."""
        answer = self._get("query", {"query": f"sum(count_over_time({query}[1h]))"})
        return sum(int(series["value"][1]) for series in answer["result"])

    def data(self, query: str) -> list[Record]:
        """A query's streams or series of the last hour, as Loki gives them."""
        now = time.time_ns()
        span = {"start": str(now - 3600 * 10**9), "end": str(now + 10**9)}
        result: list[Record] = self._get("query_range", {"query": query, **span})["result"]
        return result

    def entries(self, query: str) -> list[tuple[int, str]]:
        """All entries of the last hour, page by page: at most `limit` have the same time."""
        now = time.time_ns()
        begin, end = now - 3600 * 10**9, now + 10**9
        found: list[tuple[int, str]] = []
        while True:
            params = {"query": query, "start": str(begin), "end": str(end), "direction": "forward"}
            streams = self._get("query_range", params | {"limit": str(self.limit)})["result"]
            page = sorted((int(v[0]), v[1]) for stream in streams for v in stream["values"])
            found += [entry for entry in page if entry not in found[-self.limit :]]
            if len(page) < self.limit:
                return found
            begin = page[-1][0]

    def _get(self, what: str, params: dict[str, str]) -> Record:
        answer = httpx.get(f"{self.url}/loki/api/v1/{what}", params=params, timeout=60)
        assert answer.status_code == 200, answer.text
        data: Record = answer.json()["data"]
        return data
