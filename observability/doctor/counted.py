"""Judges the two metrics pages: whether they are there, and whether they counted the canary. Pure.

On a busy instance others are counted too: that the number grew since the canary was sent shows that
numbers come through, which is what is asked here.
"""

from __future__ import annotations

from dataclasses import dataclass

from observability import catalog
from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.reply import NOT_ASKED, REFUSED, Reply
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
        counter: what counts the canary.
        before: it, before the canary was sent.
        after: it, when the number had grown or the time was over.
        waited_s: how long that was, seconds.
        reach: why it can't be asked from here; "": it can.
    """

    address: str
    counter: Counter
    before: Reply = NOT_ASKED
    after: Reply = NOT_ASKED
    waited_s: float = 0.0
    reach: str = ""

    @property
    def has_grown(self) -> bool:
        """Whether the number grew. Without a page before: whether there is one now."""
        if not self.after.is_ok:
            return False
        before = self.before.text if self.before.is_ok else ""
        return self.counter.read(self.after.text) > self.counter.read(before)

    @property
    def series(self) -> str:
        """Whether there are series of Serve, for people."""
        has_any = has_serve_series(self.after.text)
        return "has series of Serve" if has_any else "has no series of Serve"


def judge_port(look: PageLook) -> Finding:
    """Ray's metrics port of the node that answered the canary."""
    return judge(Station.PORT, PORT_CHECKS, look)


def judge_page(look: PageLook) -> Finding:
    """The ingress's own metrics page."""
    return judge(Station.PAGE, PAGE_CHECKS, look)


def _unanswered(cause: str, step: str) -> Checks[PageLook]:
    """Of a page that does not come. `cause`: why, when nothing listens there."""
    return (
        Check(lambda look: look.after.error == REFUSED, "{address}: {after.error}", cause, step),
        Check(
            lambda look: look.after.error,
            "{address}: {after.error}",
            f"{cause} Or the way there is closed: a firewall, another network.",
            step,
        ),
        Check(
            lambda look: not look.after.is_ok,
            "{address} answers {after.seen}",
            "Another program listens on this port.",
            "ss -ltnp",
        ),
    )


_COUNTED: Check[PageLook] = Check(
    lambda look: look.has_grown,
    "{address} counted the canary, after {waited_s:.1f} s",
    outcome=Outcome.OK,
)

PORT_CHECKS: Checks[PageLook] = (
    Check(
        lambda look: not look.address,
        "Ray tells no metrics port of this node",
        "Ray's agent of the node does not run, or exports no metrics (a minimal Ray?).",
        "ray start --head --metrics-export-port=8080; its log: dashboard_agent.log.",
    ),
    *_unanswered(
        "Ray's agent of this node does not listen: it ended.",
        "See dashboard_agent.log in the logs of Ray's session.",
    ),
    _COUNTED,
    Check(
        always,
        "{address} {series}, and did not count the canary within {waited_s:.0f} s",
        "Ray takes numbers over every metrics_report_interval_ms (10 s unless it was changed); or "
        "its agent is stuck.",
        "Wait longer: tagtrail doctor --timeout 60. Then see dashboard_agent.log of Ray's session.",
    ),
)
"""What Ray's metrics port may show, in this order."""

PAGE_CHECKS: Checks[PageLook] = (
    Check(
        lambda look: not look.address,
        "switched off (admin_host=None in http_options)",
        outcome=Outcome.ABSENT,
    ),
    Check(lambda look: look.reach, "{address}: {reach}", outcome=Outcome.ABSENT),
    *_unanswered(
        "The ingress's actor does not answer, though HAProxy may: it ended, or hangs.",
        "tagtrail status",
    ),
    _COUNTED,
    Check(
        always,
        "{address} did not count the canary within {waited_s:.0f} s",
        "The process that answered is too busy to tell its numbers, or is of another instance.",
        "tagtrail top",
    ),
)
"""What the ingress's metrics page may show, in this order."""
