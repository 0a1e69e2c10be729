"""Judges Grafana: is it there, and do our data sources answer through it? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.reply import NOT_ASKED, Reply
from observability.stack.services import BY_NAME

PORT = BY_NAME["grafana"].port


@dataclass(frozen=True, slots=True)
class GrafanaLook:
    """What was seen of it.

    Attributes:
        health: what `/api/health` answers.
        sources: what the health of each data source answers, by uid.
        has_credentials: a token or a user was given; without, data sources can't be asked.
        is_named: the user gave its address.
    """

    health: Reply
    sources: Mapping[str, Reply] = field(default_factory=dict)
    has_credentials: bool = False
    is_named: bool = False

    @property
    def version(self) -> str:
        """What it says of itself."""
        return str(self.health.get("version"))

    @property
    def names(self) -> str:
        """The data sources, for people."""
        return " and ".join(self.sources)

    @property
    def failed(self) -> str:
        """The first data source that does not answer; "": all do."""
        for uid, reply in self.sources.items():
            if not reply.is_ok or reply.get("status") != "OK":
                return uid
        return ""

    @property
    def answer(self) -> Reply:
        """That one's."""
        return self.sources.get(self.failed, NOT_ASKED)

    @property
    def message(self) -> str:
        """What that one says."""
        return self.answer.get("message") or self.answer.seen


def is_grafana(health: Reply) -> bool:
    """Whether an answer of `/api/health` is of one: others listen on that port, too."""
    return health.get("database") is not None


def judge_grafana(look: GrafanaLook) -> Finding:
    """Whether it shows what Prometheus and the log store have."""
    return judge(Station.GRAFANA, CHECKS, look)


CHECKS: Checks[GrafanaLook] = (
    Check(
        lambda look: not look.is_named and not is_grafana(look.health),
        f"none answers on :{PORT}",
        outcome=Outcome.ABSENT,
    ),
    Check(
        lambda look: look.health.error,
        "{health.url}: {health.error}",
        "It does not run there.",
        "Start it, or give its address: --grafana http://HOST:PORT.",
    ),
    Check(
        lambda look: not look.health.is_ok or not is_grafana(look.health),
        "it says {health.seen}",
        "It is starting, its database is away, or it is another program.",
        "Call 'tagtrail doctor' again in a minute; then look into its log.",
    ),
    Check(
        lambda look: not look.has_credentials,
        "version {version} is well; its data sources were not asked: that needs GRAFANA_TOKEN or "
        "--grafana-user",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: look.answer.status in (401, 403),
        "it answers {answer.status} to the question for {failed}",
        "Grafana refuses the token or the user, or its role may not ask data sources.",
        "Make a token of a service account whose role is Admin: export GRAFANA_TOKEN=...",
    ),
    Check(
        lambda look: look.answer.status == 404,
        "there is no data source {failed}",
        "Grafana was not told of Tagtrail's data sources.",
        "tagtrail grafana push",
    ),
    Check(
        lambda look: look.failed,
        "{failed}: {message}",
        "Grafana does not reach the program behind {failed}: {message}",
        "Give the address as Grafana reaches it: tagtrail grafana push --prometheus URL --loki URL",
    ),
    Check(always, "version {version} is well; {names} answer through it", outcome=Outcome.OK),
)
"""What Grafana may show, in this order."""
