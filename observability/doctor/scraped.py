"""Judges Prometheus: does it scrape this instance, and has it the canary's count? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.reply import NOT_ASKED, Reply
from observability.stack.services import BY_NAME

PORT = BY_NAME["prometheus"].port


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page that it should scrape.

    Attributes:
        job: the name that rules and dashboards know it by.
        address: of the page, HOST:PORT.
        file: where it finds that address.
        exists: that file is there; None: not known here.
    """

    job: str
    address: str
    file: str
    exists: bool | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A page that it does not scrape with success.

    Attributes:
        job: see `Wanted`.
        address: of the page.
        health: of the target, in Prometheus's word.
        error: what it says of it.
    """

    job: str
    address: str
    health: str
    error: str


@dataclass(frozen=True, slots=True)
class PrometheusLook:
    """What was seen of it.

    Attributes:
        ready: what `/-/ready` answers.
        wanted: pages of which one at least must be scraped.
        targets: what `/api/v1/targets` answers.
        config: its configuration, text.
        grown: by how much the canary's counter grew, by job.
        waited_s: how long it was looked at, seconds.
        is_named: the user gave its address.
    """

    ready: Reply
    wanted: tuple[Wanted, ...] = ()
    targets: Reply = NOT_ASKED
    config: str = ""
    grown: Mapping[str, float] = field(default_factory=dict)
    waited_s: float = 0.0
    is_named: bool = False

    @property
    def scraped(self) -> str:
        """Jobs of the pages that it scrapes with success; "": none."""
        return ", ".join(p.job for p in self.wanted if is_up(self.targets, p.address))

    @property
    def counted(self) -> str:
        """Jobs in which the canary was counted; "": none."""
        return ", ".join(job for job, value in self.grown.items() if value > 0)

    @property
    def missing(self) -> str:
        """What of the pages is not scraped, for people; "": all are."""
        missing = [page.job for page in self.wanted if not is_up(self.targets, page.address)]
        if not missing:
            return ""
        note = " (rules and dashboards ask for job ray)" if "ray" in missing else ""
        return f"; {', '.join(missing)} is not scraped{note}"

    @property
    def tried(self) -> Tried | None:
        """The first page that it tries to scrape; None: it tries none."""
        for page in self.wanted:
            target = find_target(self.targets, page.address)
            if target is not None:
                error = str(target.get("lastError") or "it was not scraped yet")
                return Tried(page.job, page.address, str(target.get("health")), error)
        return None

    @property
    def pages(self) -> str:
        """The pages, for people."""
        return ", ".join(f"{page.job} at {page.address}" for page in self.wanted) or "no page"

    @property
    def files(self) -> str:
        """Where their addresses are, for people."""
        return " and ".join(page.file for page in self.wanted if page.file)

    @property
    def reads_others(self) -> bool:
        """Its configuration names none of these files."""
        files = [page.file for page in self.wanted if page.file]
        return bool(self.config and files) and not any(file in self.config for file in files)

    @property
    def gone(self) -> str:
        """Those of these files that are not there; "": none."""
        return " and ".join(page.file for page in self.wanted if page.exists is False)


def is_prometheus(reply: Reply) -> bool:
    """Whether an answer of `/-/ready` is of one: others listen on that port, too."""
    return reply.status == 503 or (reply.is_ok and "prometheus" in reply.text.lower())


def find_target(reply: Reply, address: str) -> Mapping[str, Any] | None:
    """The active target with this address."""
    targets = reply.get("data", "activeTargets")
    for target in targets if isinstance(targets, list) else ():
        if urlsplit(str(target.get("scrapeUrl"))).netloc == address:
            found: Mapping[str, Any] = target
            return found
    return None


def is_up(reply: Reply, address: str) -> bool:
    """Whether it scrapes this address, with success."""
    target = find_target(reply, address)
    return target is not None and target.get("health") == "up"


def read_values(reply: Reply) -> dict[str, float]:
    """An instant query's values by job."""
    found = reply.get("data", "result")
    series = found if isinstance(found, list) else []
    return {str(s["metric"].get("job", "")): float(s["value"][1]) for s in series}


def judge_prometheus(look: PrometheusLook) -> Finding:
    """Whether it has the canary's count; else the first thing that is in the way."""
    return judge(Station.PROMETHEUS, CHECKS, look)


_UNREADY = (
    "It is starting, or it is another program.",
    "Call 'tagtrail doctor' again in a minute; then look into its log.",
)
_NO_PAGE = "it scrapes no page of this instance ({pages})"
_FILES = "Put these into file_sd_configs as deploy/prometheus/prometheus.yml has them."

CHECKS: Checks[PrometheusLook] = (
    Check(
        lambda look: not look.is_named and not is_prometheus(look.ready),
        f"none answers on :{PORT}",
        outcome=Outcome.ABSENT,
    ),
    Check(
        lambda look: look.ready.error,
        "{ready.url}: {ready.error}",
        "It does not run there.",
        "prometheus --config.file=deploy/prometheus/prometheus.yml",
    ),
    Check(lambda look: not look.ready.is_ok, "it says {ready.seen}", *_UNREADY),
    Check(
        lambda look: not look.wanted,
        "there is no metrics page that it could scrape",
        outcome=Outcome.SKIPPED,
    ),
    Check(lambda look: not look.targets.is_ok, "it says {targets.seen}", *_UNREADY),
    Check(
        lambda look: look.scraped and not look.counted,
        "it scrapes {scraped}, and did not count the canary within {waited_s:.0f} s",
        "Its scrape_interval is longer than that, or its clock is another; or the metrics port has "
        "no new numbers.",
        "Wait longer: tagtrail doctor --timeout 60.",
    ),
    Check(
        lambda look: look.scraped,
        "it scrapes {scraped}; {counted} counted the canary, after {waited_s:.1f} s{missing}",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: look.tried is not None,
        "its target {tried.address} is {tried.health}: {tried.error}",
        "Prometheus does not reach the page of the job {tried.job}: {tried.error}.",
        "Is Prometheus in another network, container or host? Pages on 127.0.0.1 are seen on this "
        "host only: docs/prometheus.md.",
    ),
    Check(
        lambda look: look.reads_others,
        _NO_PAGE,
        "Its configuration does not look where this instance's addresses are written: {files}.",
        _FILES,
    ),
    Check(
        lambda look: look.gone,
        _NO_PAGE,
        "{gone} is not there: Ray's dashboard writes the one of job ray.",
        _FILES,
    ),
    Check(
        always,
        _NO_PAGE,
        "It has not read the files with the addresses yet, or can't.",
        _FILES,
    ),
)
"""What Prometheus may show, in this order."""
