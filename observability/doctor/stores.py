"""Judges the log store: whether the canary's record came there, and if not, why. Pure.

The agent's numbers before the canary was sent and now tell where in between it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from observability.doctor.agents import AGENTS, Counts
from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station, absent
from observability.doctor.reply import NOT_ASKED, Reply
from observability.stack.services import BY_NAME


class Store(str, Enum):
    """Kinds of log stores."""

    LOKI = "Loki"
    VICTORIA_LOGS = "VictoriaLogs"

    @property
    def port(self) -> int:
        """Where it listens by default."""
        return BY_NAME[self.option.removeprefix("--")].port

    @property
    def option(self) -> str:
        """The option that names its address."""
        return "--loki" if self is Store.LOKI else "--victoria-logs"

    @property
    def health(self) -> str:
        """The path that tells whether it is well."""
        return "/ready" if self is Store.LOKI else "/health"

    def is_seen(self, reply: Reply) -> bool:
        """Whether an answer of that path is one of this kind, well or not."""
        well = "ready" if self is Store.LOKI else "OK"
        return reply.status == 503 or (reply.status == 200 and reply.text.strip() == well)


@dataclass(frozen=True, slots=True)
class Sent:
    """What an agent did since the canary was sent.

    Attributes:
        name: of the agent.
        is_ready: it says so.
        grown: by how much its numbers grew.
        folders: it reads files of these; none: it does not tell.
        reads_segments: the segments' folder is among these.
        folder: that of the segments.
    """

    name: str
    is_ready: bool
    grown: Counts
    folders: tuple[str, ...] = ()
    reads_segments: bool = True
    folder: str = ""

    @property
    def shown_folders(self) -> str:
        """Some of the folders that it reads, for people."""
        return ", ".join(self.folders[:3])


@dataclass(frozen=True, slots=True)
class StoreLook:
    """What was seen of a store.

    Attributes:
        store: its kind.
        health: what its health path answers.
        found: the question for the record.
        count: records with the canary's id.
        waited_s: how long they were looked for, seconds.
        is_named: the user gave its address.
        sent: what the agent did, if the record is not there; None: none was found.
    """

    store: Store
    health: Reply
    found: Reply = NOT_ASKED
    count: int = 0
    waited_s: float = 0.0
    is_named: bool = False
    sent: Sent | None = None

    @property
    def name(self) -> str:
        """The store's, for people."""
        return self.store.value


def count_records(store: Store, reply: Reply) -> int:
    """How many records a store's answer has."""
    if not reply.is_ok:
        return 0
    if store is Store.VICTORIA_LOGS:
        return sum(line.startswith("{") for line in reply.text.splitlines())
    streams = reply.get("data", "result")
    return sum(len(stream["values"]) for stream in streams) if isinstance(streams, list) else 0


def judge_stores(findings: list[Finding]) -> list[Finding]:
    """The findings of all stores that are there, or that there is none."""
    there = [finding for finding in findings if finding.outcome is not Outcome.ABSENT]
    if there:
        return there
    ports = " and ".join(f"no {store.value} on :{store.port}" for store in Store)
    return [absent(Station.STORE, ports)]


def judge_store(look: StoreLook) -> Finding:
    """One store."""
    return judge(Station.STORE, CHECKS, look)


def _agent(shows: Callable[[Sent], object]) -> Callable[[StoreLook], object]:
    """Of what the agent did."""
    return lambda look: look.sent is not None and shows(look.sent)


_MISSING = "{name} has no such record after {waited_s:.0f} s"
_NUMBERS = " Since the canary it {sent.grown}."
_PORTS = ", ".join(str(agent.port) for agent in AGENTS)

CHECKS: Checks[StoreLook] = (
    Check(
        lambda look: not look.is_named and not look.store.is_seen(look.health),
        "no {name}",
        outcome=Outcome.ABSENT,
    ),
    Check(
        lambda look: look.health.error,
        "{health.url}: {health.error}",
        "{name} does not run there.",
        "Start it, or give its address: {store.option} http://HOST:PORT.",
    ),
    Check(
        lambda look: look.found is NOT_ASKED or not look.health.is_ok,
        "{name} says {health.seen}",
        "{name} is not ready: it is starting, or it is another program.",
        "Call 'tagtrail doctor' again in a minute; then look into its log.",
    ),
    Check(
        lambda look: look.count,
        "{name} has the record, after {waited_s:.1f} s",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: not look.found.is_ok,
        "{name} answers {found.seen}",
        "{name} refuses the question, so what it holds is not known.",
        "Does it ask for a password or a tenant? Give one that answers without.",
    ),
    Check(
        lambda look: look.sent is None,
        _MISSING,
        f"No log agent brings records there: none answers on the ports {_PORTS}.",
        "Start the agent (configurations: deploy/), or tell where it is: --agent URL.",
    ),
    Check(
        _agent(lambda sent: not sent.is_ready),
        _MISSING,
        "The log agent {sent.name} is not ready.",
        "See its own log.",
    ),
    Check(
        _agent(lambda sent: sent.folders and not sent.reads_segments),
        _MISSING,
        "{sent.name} reads other folders: {sent.shown_folders}. The segments are in {sent.folder}.",
        "Put that folder into its configuration: Ray's is another when RAY_TMPDIR or --temp-dir is "
        "set.",
    ),
    Check(
        _agent(lambda sent: sent.grown.refused),
        _MISSING,
        "{name} refuses what {sent.name} sends (4xx): too old, too much at once, or another "
        "program." + _NUMBERS,
        "See the reason in the log of {sent.name}, and limits_config of Loki.",
    ),
    Check(
        _agent(lambda sent: sent.grown.failed),
        _MISSING,
        "{sent.name} does not reach its store: wrong address, or the store was away." + _NUMBERS,
        "See the address in the configuration of {sent.name}, and the reason in its log.",
    ),
    Check(
        _agent(lambda sent: sent.grown.dropped),
        _MISSING,
        "{sent.name} gave records up." + _NUMBERS,
        "See the reason in the log of {sent.name}.",
    ),
    Check(
        _agent(lambda sent: not sent.grown.read),
        _MISSING,
        "{sent.name} has read nothing: it looks into another folder than {sent.folder}, may not "
        "read it, or looks seldom." + _NUMBERS,
        "Compare the folder with its configuration; wait longer with --timeout 60.",
    ),
    Check(
        _agent(lambda sent: sent.grown.sent),
        _MISSING,
        "{sent.name} sends to another store, or under another tenant or job." + _NUMBERS,
        "See the address in the configuration of {sent.name}.",
    ),
    Check(
        always,
        _MISSING,
        "{sent.name} has not sent it yet: it collects, or waits to try again." + _NUMBERS,
        "Wait longer: tagtrail doctor --timeout 60.",
    ),
)
"""What a store may show, in this order."""
