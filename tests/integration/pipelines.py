"""Log agents and stores as deploy/ has them, on free ports: segments in, records out.

Real programs. `victoria` is built by `make tools`; Loki, Promtail and Alloy are handed in.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from observability.deployed import deploy_folder
from observability.grafana.boards import BOARDS
from observability.grafana.records import Source
from observability.loki.client import LokiClient
from observability.stack.folder import StackFolder
from observability.stack.rendering import DASHBOARD_FOLDER, changes_for
from observability.stack.services import BY_NAME, default_ports
from tests.conftest import free_port
from tests.integration.keeper import Keeper
from tests.integration.programs import require

STATIONS = {
    "victoria": ("victoria-logs", "vlagent"),
    "promtail": ("loki", "promtail"),
    "alloy": ("loki", "alloy"),
}
"""Store and agent of each pipeline."""

Record = dict[str, Any]


class Store(Protocol):
    """What a log store is asked in tests."""

    url: str
    language: str

    def answer(self, query: str) -> list[Record]:
        """What a query in its language gives: entries, streams or series."""
        ...

    def find(self, request_id: str) -> list[Record]:
        """The records of a request."""
        ...

    def lines_of_ray(self, text: str) -> list[str]:
        """The lines with a text in what Ray writes."""
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

    def addresses(self) -> list[str]:
        """HOST:PORT of the agent and of the store: both have a metrics page there."""
        return [keeper.health.split("/")[2] for keeper in (self.agent, self.store)]

    @contextmanager
    def running(self) -> Iterator[Pipeline]:
        with self.store.running(), self.agent.running():
            yield self


def make_pipeline(kind: str, folder: Path, ray_folder: Path) -> Pipeline:
    """A pipeline that reads the segments below a folder of Ray, as `tagtrail stack` starts it.

    Args:
        kind: victoria, promtail or alloy: its agent.
        folder: for its data.
        ray_folder: what the files of deploy/ call /tmp/ray.
    """
    (store, url), (agent, _) = make_keepers(STATIONS[kind], folder, ray_folder)
    ask = VictoriaLogs if kind == "victoria" else Loki
    return Pipeline(agent, store, ask(url))


def make_keepers(
    names: tuple[str, ...], folder: Path, ray_folder: Path, **known: int
) -> list[tuple[Keeper, str]]:
    """Programs that know each other's ports, each with its address.

    Args:
        names: of the programs.
        folder: for their data.
        ray_folder: what the files of deploy/ call /tmp/ray.
        **known: ports of others that run already, by name, `-` written as `_`.
    """
    ports = {name: known.get(name.replace("-", "_")) or free_port() for name in default_ports()}
    changes = changes_for(ports, str(ray_folder), DASHBOARD_FOLDER)
    place = StackFolder(folder)

    def keeper(name: str) -> Keeper:
        service = BY_NAME[name]
        executable = require(service.program)
        at = place.place(service, executable, deploy_folder(), ports, changes)
        return Keeper(list(service.command(at)), service.health_url(ports), place.log(service))

    return [(keeper(name), BY_NAME[name].address(ports)) for name in names]


@dataclass
class VictoriaLogs:
    """Asked in LogsQL."""

    url: str
    language: str = "logsql"

    def find(self, request_id: str) -> list[Record]:
        return self.answer(f"request_id:={json.dumps(request_id)}")

    def lines_of_ray(self, text: str) -> list[str]:
        return [record["_msg"] for record in self.answer(f'{{job="ray"}} {json.dumps(text)}')]

    def times(self, backend: str, text: str) -> list[tuple[str, str]]:
        query = f'{{job="serve",backend="{backend}"}} {json.dumps(text)} | fields replica, _time'
        return [(record["replica"], record["_time"]) for record in self.answer(query)]

    def answer(self, query: str) -> list[Record]:
        answer = httpx.post(f"{self.url}/select/logsql/query", data={"query": query}, timeout=60)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


@dataclass
class Loki:
    """Asked in LogQL."""

    url: str
    language: str = "logql"

    def find(self, request_id: str) -> list[Record]:
        entries = self.entries(f'{{job="serve"}} | request_id=`{request_id}`')
        return [json.loads(line) for _, line in entries]

    def lines_of_ray(self, text: str) -> list[str]:
        return [line for _, line in self.entries(f'{{job="ray"}} |= "{text}"')]

    def times(self, backend: str, text: str) -> list[tuple[str, str]]:
        query = f'{{job="serve", backend="{backend}"}} |= `{text}`'
        records = [json.loads(line) for _, line in self.entries(query)]
        assert self.count(query) == len(records)
        return [(record["replica"], record["time"]) for record in records]

    def count(self, query: str) -> int:
        """What a metric query counts, which sees what a log query hides."""
        answer = self._get("query", {"query": f"sum(count_over_time({query}[1h]))"})
        return sum(int(series["value"][1]) for series in answer["result"])

    def answer(self, query: str) -> list[Record]:
        """Streams or series of the last hour."""
        now = time.time_ns()
        span = {"start": str(now - 3600 * 10**9), "end": str(now + 10**9)}
        result: list[Record] = self._get("query_range", {"query": query, **span})["result"]
        return result

    def entries(self, query: str) -> list[tuple[int, str]]:
        """All entries of the last hour."""
        now = time.time_ns()
        return list(LokiClient(self.url).entries(query, now - 3600 * 10**9, now + 10**9))

    def _get(self, what: str, params: dict[str, str]) -> Record:
        answer = httpx.get(f"{self.url}/loki/api/v1/{what}", params=params, timeout=60)
        assert answer.status_code == 200, answer.text
        data: Record = answer.json()["data"]
        return data


def queries_of(page: Path, language: str) -> list[str]:
    """Each line of the blocks of a page that are in a query language."""
    blocks = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def log_queries(values: dict[str, str]) -> list[str]:
    """The LogQL of the dashboards, its variables replaced by values; others stay as they are."""
    queries = [
        query.expr
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        if panel.source is Source.LOKI
        for query in panel.queries
    ]
    for name, value in values.items():
        queries = [query.replace(f"${name}", value) for query in queries]
    return queries
