"""Judges the two metrics pages: whether they are there, and whether they counted the canary. Pure.

On a busy instance others are counted too: that the number grew since the canary was sent shows that
numbers come through, which is what is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass

from observability import catalog
from observability.doctor.findings import Finding, Station, absent, bad, good
from observability.doctor.reply import REFUSED, Reply
from observability.doctor.scrape import has_serve_series, sum_series

UNMATCHED = {"route": "unmatched"}


@dataclass(frozen=True, slots=True)
class Counter:
    """The series that count the canary.

    Attributes:
        name: as Prometheus has it.
        labels: those that the series have.
    """

    name: str
    labels: dict[str, str]

    def read(self, text: str) -> float:
        """The number on a metrics page; 0 before the first one."""
        return sum_series(text, self.name, self.labels) or 0.0

    def __str__(self) -> str:
        """The selector in PromQL."""
        inner = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.name}{{{inner}}}"


def counter_of(replica: str) -> Counter:
    """The counter for a canary that this replica answered; "": the ingress did."""
    if replica:
        return Counter(catalog.ENDPOINT_REQUESTS.series[0], {"replica": replica})
    return Counter(catalog.HTTP_REQUESTS.series[0], UNMATCHED)


@dataclass(frozen=True, slots=True)
class PageLook:
    """What was seen of a page.

    Attributes:
        address: where it is, HOST:PORT; "": there is none.
        before: it, before the canary was sent.
        after: it, when the number had grown or the time was over.
        waited_s: how long that was, seconds.
        reach: why it can't be asked from here; "": it can.
    """

    address: str
    before: Reply | None = None
    after: Reply | None = None
    waited_s: float = 0.0
    reach: str = ""


def has_grown(look: PageLook, counter: Counter) -> bool:
    """Whether the number grew. Without a page before: whether there is one now."""
    if look.after is None or not look.after.is_ok:
        return False
    before = look.before.text if look.before is not None and look.before.is_ok else ""
    return counter.read(look.after.text) > counter.read(before)


def judge_port(look: PageLook, counter: Counter) -> Finding:
    """Ray's metrics port of the node that answered the canary."""
    station = Station.PORT
    if not look.address:
        return bad(
            station,
            "Ray tells no metrics port of this node",
            "Ray's agent of the node does not run, or exports no metrics (a minimal Ray?).",
            "ray start --head --metrics-export-port=8080; its log: dashboard_agent.log.",
        )
    answer = _judge_reply(
        station,
        look,
        "Ray's agent of this node does not listen: it ended.",
        "See dashboard_agent.log in the logs of Ray's session.",
    )
    if answer is not None:
        return answer
    if has_grown(look, counter):
        return good(station, f"{look.address} counted the canary, after {look.waited_s:.1f} s")
    assert look.after is not None
    seen = "has series of Serve" if has_serve_series(look.after.text) else "has no series of Serve"
    return bad(
        station,
        f"{look.address} {seen}, and did not count the canary within {look.waited_s:.0f} s",
        "Ray takes numbers over every metrics_report_interval_ms (10 s unless it was changed); or "
        "its agent is stuck.",
        "Wait longer: tagtrail doctor --timeout 60. Then see dashboard_agent.log of Ray's session.",
    )


def judge_page(look: PageLook, counter: Counter) -> Finding:
    """The ingress's own metrics page."""
    station = Station.PAGE
    if not look.address:
        return absent(station, "switched off (admin_host=None in http_options)")
    if look.reach:
        return absent(station, f"{look.address}: {look.reach}")
    answer = _judge_reply(
        station,
        look,
        "The ingress's actor does not answer, though HAProxy may: it ended, or hangs.",
        "tagtrail status",
    )
    if answer is not None:
        return answer
    if has_grown(look, counter):
        return good(station, f"{look.address} counted the canary, after {look.waited_s:.1f} s")
    return bad(
        station,
        f"{look.address} did not count the canary within {look.waited_s:.0f} s",
        "The process that answered is too busy to tell its numbers, or is of another instance.",
        "tagtrail top",
    )


def _judge_reply(station: Station, look: PageLook, cause: str, step: str) -> Finding | None:
    reply = look.after
    if reply is None or reply.error:
        seen = reply.error if reply is not None else "not asked"
        if seen != REFUSED:
            cause = f"{cause} Or the way there is closed: a firewall, another network."
        return bad(station, f"{look.address}: {seen}", cause, step)
    if not reply.is_ok:
        text = f"{look.address} answers {reply.seen}"
        return bad(station, text, "Another program listens on this port.", "ss -ltnp")
    return None
