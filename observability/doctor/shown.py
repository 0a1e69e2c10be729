"""Judges Grafana: is it there, and do our data sources answer through it? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from observability.doctor.findings import Finding, Station, absent, bad, good
from observability.doctor.reply import Reply
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


def is_grafana(health: Reply) -> bool:
    """Whether an answer of `/api/health` is of one: others listen on that port, too."""
    return health.get("database") is not None


def judge_grafana(look: GrafanaLook) -> Finding:
    """Whether it shows what Prometheus and the log store have."""
    station = Station.GRAFANA
    if not look.is_named and not is_grafana(look.health):
        return absent(station, f"none answers on :{PORT}")
    if look.health.error:
        return bad(
            station,
            f"{look.health.url}: {look.health.error}",
            "It does not run there.",
            "Start it, or give its address: --grafana http://HOST:PORT.",
        )
    if not look.health.is_ok or not is_grafana(look.health):
        return bad(
            station,
            f"it says {look.health.seen}",
            "It is starting, its database is away, or it is another program.",
            "Call 'tagtrail doctor' again in a minute; then look into its log.",
        )
    version = f"version {look.health.get('version')}"
    if not look.has_credentials:
        return good(
            station,
            f"{version} is well; its data sources were not asked: that needs GRAFANA_TOKEN or "
            "--grafana-user",
        )
    for uid, reply in look.sources.items():
        finding = _judge_source(uid, reply)
        if finding is not None:
            return finding
    return good(station, f"{version} is well; {' and '.join(look.sources)} answer through it")


def _judge_source(uid: str, reply: Reply) -> Finding | None:
    """None: it answers."""
    if reply.is_ok and reply.get("status") == "OK":
        return None
    if reply.status in (401, 403):
        return bad(
            Station.GRAFANA,
            f"it answers {reply.status} to the question for {uid}",
            "Grafana refuses the token or the user, or its role may not ask data sources.",
            "Make a token of a service account whose role is Admin: export GRAFANA_TOKEN=...",
        )
    if reply.status == 404:
        return bad(
            Station.GRAFANA,
            f"there is no data source {uid}",
            "Grafana was not told of Tagtrail's data sources.",
            "tagtrail grafana push",
        )
    message = reply.get("message") or reply.seen
    return bad(
        Station.GRAFANA,
        f"{uid}: {message}",
        f"Grafana does not reach the program behind {uid}: {message}",
        "Give the address as Grafana reaches it: tagtrail grafana push --prometheus URL --loki URL",
    )
