"""Judges the log store: whether the canary's record came there, and if not, why. Pure.

The agent's numbers before the canary was sent and now tell where in between it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from observability.doctor.agents import AGENTS, Counts
from observability.doctor.findings import Finding, Outcome, Station, absent, bad, good
from observability.doctor.reply import Reply
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
class StoreLook:
    """What was seen of a store.

    Attributes:
        store: its kind.
        health: what its health path answers.
        found: the question for the record; None: not asked.
        count: records with the canary's id.
        waited_s: how long they were looked for, seconds.
        is_named: the user gave its address.
    """

    store: Store
    health: Reply
    found: Reply | None = None
    count: int = 0
    waited_s: float = 0.0
    is_named: bool = False


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


def judge_store(look: StoreLook, sent: Sent | None) -> Finding:
    """One store.

    Args:
        look: what was seen of it.
        sent: what the agent did; None: none was found.
    """
    station, name = Station.STORE, look.store.value
    if not look.is_named and not look.store.is_seen(look.health):
        return absent(station, f"no {name}")
    if look.health.error:
        return bad(
            station,
            f"{look.health.url}: {look.health.error}",
            f"{name} does not run there.",
            f"Start it, or give its address: {look.store.option} http://HOST:PORT.",
        )
    if look.found is None or not look.health.is_ok:
        return bad(
            station,
            f"{name} says {look.health.seen}",
            f"{name} is not ready: it is starting, or it is another program.",
            "Call 'tagtrail doctor' again in a minute; then look into its log.",
        )
    if look.count:
        return good(station, f"{name} has the record, after {look.waited_s:.1f} s")
    if not look.found.is_ok:
        return bad(
            station,
            f"{name} answers {look.found.seen}",
            f"{name} refuses the question, so what it holds is not known.",
            "Does it ask for a password or a tenant? Give one that answers without.",
        )
    cause, step = _why_not_there(name, sent)
    return bad(station, f"{name} has no such record after {look.waited_s:.0f} s", cause, step)


def _why_not_there(name: str, sent: Sent | None) -> tuple[str, str]:
    if sent is None:
        ports = ", ".join(str(agent.port) for agent in AGENTS)
        return (
            f"No log agent brings records there: none answers on the ports {ports}.",
            "Start the agent (configurations: deploy/), or tell where it is: --agent URL.",
        )
    agent, grown = sent.name, sent.grown
    if not sent.is_ready:
        return f"The log agent {agent} is not ready.", "See its own log."
    if sent.folders and not sent.reads_segments:
        return (
            f"{agent} reads other folders: {', '.join(sent.folders[:3])}. The segments are in "
            f"{sent.folder}.",
            "Put that folder into its configuration: Ray's is another when RAY_TMPDIR or "
            "--temp-dir is set.",
        )
    numbers = f"Since the canary it {grown}."
    if grown.refused:
        return (
            f"{name} refuses what {agent} sends (4xx): too old, too much at once, or another "
            f"program. {numbers}",
            f"See the reason in the log of {agent}, and limits_config of Loki.",
        )
    if grown.failed:
        return (
            f"{agent} does not reach its store: wrong address, or the store was away. {numbers}",
            f"See the address in the configuration of {agent}, and the reason in its log.",
        )
    if grown.dropped:
        return (
            f"{agent} gave records up. {numbers}",
            f"See the reason in the log of {agent}.",
        )
    if not grown.read:
        return (
            f"{agent} has read nothing: it looks into another folder than {sent.folder}, may not "
            f"read it, or looks seldom. {numbers}",
            "Compare the folder with its configuration; wait longer with --timeout 60.",
        )
    if grown.sent:
        return (
            f"{agent} sends to another store, or under another tenant or job. {numbers}",
            f"See the address in the configuration of {agent}.",
        )
    return (
        f"{agent} has not sent it yet: it collects, or waits to try again. {numbers}",
        "Wait longer: tagtrail doctor --timeout 60.",
    )
