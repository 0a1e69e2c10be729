"""Log agents: where each is, which of its numbers tell what it has read and sent. Pure.

Names of Promtail's and Alloy's numbers: Loki's operations/observability page and Alloy's reference
of `loki.source.file` and `loki.write`; vlagent's were read off a running one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station, absent
from observability.doctor.reply import NOT_ASKED, Reply
from observability.doctor.scrape import read_series, sum_series
from observability.stack.services import BY_NAME


@dataclass(frozen=True, slots=True)
class Agent:
    """A kind of agent.

    Attributes:
        name: for people.
        port: where it listens by default.
        health: path that answers 2xx when it is well.
        mark: how names of its own metrics begin.
        read: counter of lines read, with a label `path` where it has one.
        sent: counter of what the store took.
        dropped: counter of what it gave up.
        requests: counter of its requests to the store, by `status_code`.
        errors: counter of requests without an answer, where `requests` does not have these.
        unit: what `sent` and `dropped` count; empty: lines.
    """

    name: str
    port: int
    health: str
    mark: str
    read: str
    sent: str
    dropped: str
    requests: str
    errors: str = ""
    unit: str = ""


ALLOY = Agent(
    "Alloy",
    BY_NAME["alloy"].port,
    "/-/ready",
    "alloy_",
    "loki_source_file_read_lines_total",
    "loki_write_sent_entries_total",
    "loki_write_dropped_entries_total",
    "loki_write_request_duration_seconds_count",
)
PROMTAIL = Agent(
    "Promtail",
    BY_NAME["promtail"].port,
    "/ready",
    "promtail_",
    "promtail_read_lines_total",
    "promtail_sent_entries_total",
    "promtail_dropped_entries_total",
    "promtail_request_duration_seconds_count",
)
VLAGENT = Agent(
    "vlagent",
    BY_NAME["vlagent"].port,
    "/health",
    "vlagent_remotewrite_",
    "vl_rows_ingested_total",
    "vlagent_remotewrite_blocks_sent_total",
    "vlagent_remotewrite_packets_dropped_total",
    "vlagent_remotewrite_requests_total",
    "vlagent_remotewrite_errors_total",
    " blocks",
)
AGENTS = (ALLOY, PROMTAIL, VLAGENT)


@dataclass(frozen=True, slots=True)
class Counts:
    """What an agent has counted, or by how much that grew.

    Attributes:
        read: lines.
        sent: lines, or what `unit` says, that the store took.
        dropped: the same, given up.
        refused: requests that the store answered with 4xx.
        failed: requests that it answered with 5xx, or not at all.
        unit: of `sent` and `dropped`; empty: lines.
    """

    read: float = 0.0
    sent: float = 0.0
    dropped: float = 0.0
    refused: float = 0.0
    failed: float = 0.0
    unit: str = ""

    def since(self, before: Counts) -> Counts:
        """By how much they grew; an agent that started anew begins at 0."""
        if self.read < before.read:
            return self
        names = [field.name for field in fields(self) if field.name != "unit"]
        grown = (max(0.0, getattr(self, name) - getattr(before, name)) for name in names)
        return replace(Counts(*grown), unit=self.unit)

    def __str__(self) -> str:
        """Them, for people."""
        return (
            f"read {self.read:,.0f} lines, sent {self.sent:,.0f}{self.unit}, gave up "
            f"{self.dropped:,.0f}; requests refused {self.refused:,.0f}, failed {self.failed:,.0f}"
        )


def recognise(text: str) -> Agent | None:
    """Whose metrics page it is."""
    lines = f"\n{text}"
    return next((agent for agent in AGENTS if f"\n{agent.mark}" in lines), None)


def count(agent: Agent, text: str) -> Counts:
    """What its metrics page tells."""
    refused, failed = 0.0, sum_series(text, agent.errors) or 0.0 if agent.errors else 0.0
    for labels, value in read_series(text, agent.requests):
        status = labels.get("status_code", "")
        if status.startswith("4"):
            refused += value
        elif not status.startswith(("2", "3")):  # 5xx; -1 or `failed`: no answer
            failed += value
    return Counts(
        sum_series(text, agent.read) or 0.0,
        sum_series(text, agent.sent) or 0.0,
        sum_series(text, agent.dropped) or 0.0,
        refused,
        failed,
        agent.unit,
    )


def read_folders(agent: Agent, text: str) -> tuple[str, ...]:
    """The folders it reads files of; none when it does not tell."""
    paths = (labels.get("path", "") for labels, _ in read_series(text, agent.read))
    return tuple(sorted({path.rpartition("/")[0] for path in paths if "/" in path}))


@dataclass(frozen=True, slots=True)
class AgentLook:
    """What was seen of an agent.

    Attributes:
        page: its metrics page.
        agent: its kind; None: not recognised.
        health: what its health path answers.
        is_named: the user gave its address.
    """

    page: Reply
    agent: Agent | None = None
    health: Reply = NOT_ASKED
    is_named: bool = False

    @property
    def counts(self) -> Counts:
        """What it has counted."""
        return Counts() if self.agent is None else count(self.agent, self.page.text)


def judge_agent(look: AgentLook | None) -> Finding:
    """Whether an agent runs and is well. None: none was named, and none answers."""
    if look is None:
        ports = ", ".join(f"{agent.name} :{agent.port}" for agent in AGENTS)
        return absent(Station.AGENT, f"none answers ({ports})")
    return judge(Station.AGENT, CHECKS, look)


CHECKS: Checks[AgentLook] = (
    Check(
        lambda look: look.page.error,
        "{page.url}: {page.error}",
        "The agent does not run.",
        "Start it, or leave --agent away. Configurations: deploy/.",
    ),
    Check(
        lambda look: look.agent is None,
        "{page.url}: {page.status}",
        "It is no agent that is known here: its metrics are not those of Alloy, Promtail or "
        "vlagent.",
        "Give the address of the agent's own HTTP server: --agent http://HOST:PORT.",
    ),
    Check(
        lambda look: not look.health.is_ok,
        "{agent.name}: {health.seen}",
        "{agent.name} runs, and says that it is not ready.",
        "See its own log; it is often the configuration.",
    ),
    Check(always, "{agent.name} is ready; {counts}", outcome=Outcome.OK),
)
"""What an agent may show, in this order."""
