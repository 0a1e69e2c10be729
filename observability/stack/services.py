"""The programs as services: where each listens, what it reads, how it is started, in which order.

Pure: runner.py finds them, starts them and waits. `deploy/compose.yaml` is held to this file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from observability.stack.records import (
    ALERTMANAGER,
    ALLOY,
    GRAFANA,
    LOKI,
    PROMETHEUS,
    PROMTAIL,
    VICTORIA_LOGS,
    VLAGENT,
    Program,
)

HOST = "127.0.0.1"
"""Where all of them listen. Who wants to open one to a network does so on purpose, elsewhere."""


class StackError(Exception):
    """The stack can't do what was asked; the message says what stands in the way."""


class Role(Enum):
    """What a service is there for. Of several with one role, one is started."""

    STORE = "log store"
    AGENT = "log agent"
    ALERTS = "alerts"
    METRICS = "metrics"
    DASHBOARDS = "dashboards"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one program works: what its command line is made of.

    Attributes:
        executable: its file.
        config: what it reads.
        data: folder of its own.
        ports: port of every name of `default_ports`.
        home: folder of Grafana's own files; empty: Grafana looks for it itself.
        options: lines of `config`, of a program that takes options only.
    """

    executable: Path
    config: Path
    data: Path
    ports: Mapping[str, int]
    home: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One program as a service.

    Attributes:
        program: which one.
        role: what for.
        port: where it listens for HTTP, unless it is told otherwise.
        health_path: what answers 200 when it is ready to work.
        folder: folder below `deploy/` with all that it reads.
        config: the file in it that it is pointed to; empty: the folder itself.
        arguments: its command line after the executable.
        more_ports: others, by name.
    """

    program: Program
    role: Role
    port: int
    health_path: str
    folder: str
    config: str
    arguments: Callable[[Place], tuple[str, ...]]
    more_ports: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """That of its program."""
        return self.program.name

    @property
    def ports(self) -> dict[str, int]:
        """All that it listens on, unless it is told otherwise."""
        return {self.name: self.port, **dict(self.more_ports)}

    def address(self, ports: Mapping[str, int]) -> str:
        """Where it is reached."""
        return f"http://{HOST}:{ports[self.name]}"

    def command(self, place: Place) -> tuple[str, ...]:
        """Its command line."""
        return (str(place.executable), *self.arguments(place))

    def health_url(self, ports: Mapping[str, int]) -> str:
        """What is asked to see whether it is healthy."""
        return self.address(ports) + self.health_path


def _loki(place: Place) -> tuple[str, ...]:
    return (
        f"-config.file={place.config}",
        f"-server.http-listen-address={HOST}",
        f"-server.http-listen-port={place.ports['loki']}",
        f"-server.grpc-listen-address={HOST}",
        f"-server.grpc-listen-port={place.ports['loki-grpc']}",
        f"-common.path-prefix={place.data}",
        f"-common.storage.filesystem.chunk-directory={place.data}/chunks",
        f"-common.storage.filesystem.rules-directory={place.data}/rules",
        "-reporting.enabled=false",
    )


def _promtail(place: Place) -> tuple[str, ...]:
    return (
        f"-config.file={place.config}",
        f"-server.http-listen-address={HOST}",
        f"-server.http-listen-port={place.ports['promtail']}",
        f"-server.grpc-listen-address={HOST}",
        "-server.grpc-listen-port=0",
        f"-positions.file={place.data}/positions.yaml",
    )


def _alloy(place: Place) -> tuple[str, ...]:
    return (
        "run",
        f"--server.http.listen-addr={HOST}:{place.ports['alloy']}",
        f"--storage.path={place.data}",
        "--disable-reporting",
        str(place.config),
    )


def _victoria_logs(place: Place) -> tuple[str, ...]:
    own = (
        f"-httpListenAddr={HOST}:{place.ports['victoria-logs']}",
        f"-storageDataPath={place.data}",
    )
    return merge_options(place.options, own)


def _vlagent(place: Place) -> tuple[str, ...]:
    own = (f"-httpListenAddr={HOST}:{place.ports['vlagent']}", f"-tmpDataPath={place.data}")
    return merge_options(place.options, own)


def _alertmanager(place: Place) -> tuple[str, ...]:
    return (
        f"--config.file={place.config}",
        f"--storage.path={place.data}",
        f"--web.listen-address={HOST}:{place.ports['alertmanager']}",
        "--cluster.listen-address=",  # one alone talks to no others
    )


def _prometheus(place: Place) -> tuple[str, ...]:
    return (
        f"--config.file={place.config}",
        f"--storage.tsdb.path={place.data}",
        f"--web.listen-address={HOST}:{place.ports['prometheus']}",
    )


def _grafana(place: Place) -> tuple[str, ...]:
    # `cfg:` goes before Grafana's files and environment; docs: Override configuration.
    settings = {
        "server.http_addr": HOST,
        "server.http_port": place.ports["grafana"],
        "paths.data": place.data,
        "paths.logs": place.data / "log",
        "paths.plugins": place.data / "plugins",
        "paths.provisioning": place.config,
        "analytics.reporting_enabled": "false",
        "analytics.check_for_updates": "false",
        "analytics.check_for_plugin_updates": "false",
    }
    # grafana-server is the old name of it, or a script that adds the word itself.
    verb = ("server",) if place.executable.name == "grafana" else ()
    home = (f"--homepath={place.home}",) if place.home else ()
    return (*verb, *home, *(f"cfg:{name}={value}" for name, value in settings.items()))


SERVICES = (
    Service(
        LOKI,
        Role.STORE,
        3100,
        "/ready",
        "loki",
        "loki-local-config.yaml",
        _loki,
        (("loki-grpc", 9095),),
    ),
    Service(
        VICTORIA_LOGS,
        Role.STORE,
        9428,
        "/health",
        "victoria-logs",
        "victoria-logs.flags",
        _victoria_logs,
    ),
    Service(ALLOY, Role.AGENT, 12345, "/-/ready", "alloy", "config.alloy", _alloy),
    # Its /ready says no as long as there is no file to read, which may be long before Ray runs.
    Service(
        PROMTAIL, Role.AGENT, 9080, "/metrics", "loki", "promtail-local-config.yaml", _promtail
    ),
    Service(VLAGENT, Role.AGENT, 9429, "/health", "victoria-logs", "vlagent.flags", _vlagent),
    Service(
        ALERTMANAGER,
        Role.ALERTS,
        9093,
        "/-/ready",
        "alertmanager",
        "alertmanager.yml",
        _alertmanager,
    ),
    Service(
        PROMETHEUS, Role.METRICS, 9090, "/-/ready", "prometheus", "prometheus.yml", _prometheus
    ),
    Service(
        GRAFANA,
        Role.DASHBOARDS,
        3000,
        "/api/health",
        "grafana/provisioning",
        "",
        _grafana,
    ),
)
"""In the order in which they are started. Of each role the first that is there is taken."""

BY_NAME = {service.name: service for service in SERVICES}

AGENTS_OF = {"loki": ("alloy", "promtail"), "victoria-logs": ("vlagent",)}
"""Which agents send to which store."""


def default_ports() -> dict[str, int]:
    """Every port that has a name."""
    return {name: port for service in SERVICES for name, port in service.ports.items()}


def merge_options(options: Iterable[str], own: Collection[str]) -> tuple[str, ...]:
    """Options of a file, but for those that we give ourselves; then ours.

    A program that gets an address twice listens twice, or not at all.

    Args:
        options: lines, `-name=value` each; empty ones and comments (`#`) are left out.
        own: ours.
    """
    names = {option.partition("=")[0].lstrip("-") for option in own}
    lines = (line.strip() for line in options)
    kept = (
        line
        for line in lines
        if line
        and not line.startswith("#")
        and line.partition("=")[0].rstrip().lstrip("-") not in names
    )
    return (*kept, *own)
