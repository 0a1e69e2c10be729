"""Judges Prometheus: does it scrape this instance, and has it the canary's count? Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from observability.doctor.findings import Finding, Station, absent, bad, good, skipped
from observability.doctor.reply import Reply
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
class PrometheusLook:
    """What was seen of it.

    Attributes:
        ready: what `/-/ready` answers.
        targets: what `/api/v1/targets` answers; None: not asked.
        config: its configuration, text.
        grown: by how much the canary's counter grew, by job.
        waited_s: how long it was looked at, seconds.
        is_named: the user gave its address.
    """

    ready: Reply
    targets: Reply | None = None
    config: str = ""
    grown: Mapping[str, float] | None = None
    waited_s: float = 0.0
    is_named: bool = False


def is_prometheus(reply: Reply) -> bool:
    """Whether an answer of `/-/ready` is of one: others listen on that port, too."""
    return reply.status == 503 or (reply.is_ok and "prometheus" in reply.text.lower())


def find_target(reply: Reply | None, address: str) -> Mapping[str, Any] | None:
    """The active target with this address."""
    targets = reply.get("data", "activeTargets") if reply is not None else None
    for target in targets if isinstance(targets, list) else ():
        if urlsplit(str(target.get("scrapeUrl"))).netloc == address:
            found: Mapping[str, Any] = target
            return found
    return None


def is_up(reply: Reply | None, address: str) -> bool:
    """Whether it scrapes this address, with success."""
    target = find_target(reply, address)
    return target is not None and target.get("health") == "up"


def read_values(reply: Reply) -> dict[str, float]:
    """An instant query's values by job."""
    found = reply.get("data", "result")
    series = found if isinstance(found, list) else []
    return {str(s["metric"].get("job", "")): float(s["value"][1]) for s in series}


def judge_prometheus(look: PrometheusLook, wanted: tuple[Wanted, ...]) -> Finding:
    """Whether it has the canary's count; else the first thing that is in the way.

    Args:
        look: what was seen.
        wanted: pages of which one at least must be scraped.
    """
    station = Station.PROMETHEUS
    if not look.is_named and not is_prometheus(look.ready):
        return absent(station, f"none answers on :{PORT}")
    if look.ready.error:
        return bad(
            station,
            f"{look.ready.url}: {look.ready.error}",
            "It does not run there.",
            "prometheus --config.file=deploy/prometheus/prometheus.yml",
        )
    if not look.ready.is_ok or look.targets is None or not look.targets.is_ok:
        seen = look.ready if not look.ready.is_ok else look.targets
        return bad(
            station,
            f"it says {seen.seen if seen else 'nothing'}",
            "It is starting, or it is another program.",
            "Call 'tagtrail doctor' again in a minute; then look into its log.",
        )
    if not wanted:
        return skipped(station, "there is no metrics page that it could scrape")
    scraped = [page for page in wanted if is_up(look.targets, page.address)]
    if not scraped:
        return _judge_targets(look, wanted)
    jobs = ", ".join(page.job for page in scraped)
    if not any((look.grown or {}).values()):
        return bad(
            station,
            f"it scrapes {jobs}, and did not count the canary within {look.waited_s:.0f} s",
            "Its scrape_interval is longer than that, or its clock is another; or the metrics port "
            "has no new numbers.",
            "Wait longer: tagtrail doctor --timeout 60.",
        )
    counted = ", ".join(job for job, value in (look.grown or {}).items() if value)
    text = f"it scrapes {jobs}; {counted} counted the canary, after {look.waited_s:.1f} s"
    return good(station, text + _name_missing(look, wanted))


def _judge_targets(look: PrometheusLook, wanted: tuple[Wanted, ...]) -> Finding:
    """None of the pages is scraped with success: is one tried?"""
    for page in wanted:
        target = find_target(look.targets, page.address)
        if target is not None:
            error = str(target.get("lastError") or "it was not scraped yet")
            return bad(
                Station.PROMETHEUS,
                f"its target {page.address} is {target.get('health')}: {error}",
                f"Prometheus does not reach the page of the job {page.job}: {error}.",
                "Is Prometheus in another network, container or host? Pages on 127.0.0.1 are seen "
                "on this host only: docs/prometheus.md.",
            )
    files = [page.file for page in wanted if page.file]
    pages = ", ".join(f"{page.job} at {page.address}" for page in wanted) or "no page"
    unknown = [file for file in files if file not in look.config]
    gone = [page.file for page in wanted if page.exists is False]
    if look.config and len(unknown) == len(files):
        cause = (
            "Its configuration does not look where this instance's addresses are written: "
            f"{' and '.join(files)}."
        )
    elif gone:
        cause = f"{' and '.join(gone)} is not there: Ray's dashboard writes the one of job ray."
    else:
        cause = "It has not read the files with the addresses yet, or can't."
    return bad(
        Station.PROMETHEUS,
        f"it scrapes no page of this instance ({pages})",
        cause,
        "Put these into file_sd_configs as deploy/prometheus/prometheus.yml has them.",
    )


def _name_missing(look: PrometheusLook, wanted: tuple[Wanted, ...]) -> str:
    missing = [page for page in wanted if not is_up(look.targets, page.address)]
    if not missing:
        return ""
    text = f"; {', '.join(page.job for page in missing)} is not scraped"
    if any(page.job == "ray" for page in missing):
        text += " (rules and dashboards ask for job ray)"
    return text
