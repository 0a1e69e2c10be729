"""Follows the canary's count: metrics pages, Prometheus, Grafana."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from observability import catalog
from observability.doctor import counted, scraped, shown
from observability.doctor.counted import Counter, PageLook
from observability.doctor.facts import Addresses, InstanceFacts, NodeFacts
from observability.doctor.findings import Finding, Station
from observability.doctor.probes import Probes
from observability.doctor.reply import NOT_ASKED, Reply
from observability.doctor.scrape import sum_series
from observability.doctor.scraped import PrometheusLook, Wanted
from observability.doctor.shown import GrafanaLook
from observability.doctor.watch import Watch
from observability.grafana.records import LOKI_UID, PROMETHEUS_UID

PAGE_S = 10.0
"""A page tells what is so at that moment; its sources may be busy for a while."""


class NumbersWay:
    """One canary's.

    Args:
        facts: of the instance.
        addresses: programs that the user named.
        has_credentials: for Grafana.
        probes: ask.
        watch: waits.
    """

    def __init__(
        self,
        facts: InstanceFacts,
        addresses: Addresses,
        probes: Probes,
        watch: Watch,
        *,
        has_credentials: bool,
    ) -> None:
        self._facts = facts
        self._addresses = addresses
        self._probes = probes
        self._watch = watch
        self._has_credentials = has_credentials
        self._before: dict[str, Reply] = {}

    def look_before(self) -> None:
        """Keep all pages as they are before the canary is sent."""
        for node in self._facts.nodes.values():
            for address in filter(None, (node.port, node.page and node.reach(node.page))):
                self._before[address] = self._scrape(address)

    def dropped_since(self, node: NodeFacts) -> float:
        """Records that the node's processes could not write since then."""
        (name,) = catalog.RECORDS_DROPPED.series
        address = node.page and node.reach(node.page)
        if address not in self._before:
            return 0.0
        before, now = self._before[address].text, self._scrape(address).text
        return max(0.0, (sum_series(now, name) or 0.0) - (sum_series(before, name) or 0.0))

    def look_page(self, node: NodeFacts, counter: Counter) -> Finding:
        """The metrics page of the node's ingress, or of the one that was asked."""
        if not node.page:
            node = self._facts.node_of("")
        address = node.page and node.reach(node.page)
        if node.page and not address:
            reach = f"on loopback of {node.host}, another machine"
            look = PageLook(node.page, counter, reach=reach)
        else:
            limit_s = min(PAGE_S, self._watch.timeout_s)
            look = self._look_growth(Station.PAGE, address, counter, limit_s)
        return counted.judge_page(look)

    def look_port(self, node: NodeFacts, counter: Counter) -> Finding:
        """Ray's metrics port of the node."""
        look = self._look_growth(Station.PORT, node.port, counter, self._watch.timeout_s)
        return counted.judge_port(look)

    def look_prometheus(self, node: NodeFacts, counter: Counter) -> Finding:
        """Prometheus, if there is one."""
        named = self._addresses.prometheus
        url = named or f"http://127.0.0.1:{scraped.PORT}"
        ready = self._probes.ask(f"{url}/-/ready")
        wanted = self._wanted(node)
        look = PrometheusLook(ready, wanted, is_named=bool(named))
        if not ready.is_ok or not (named or scraped.is_prometheus(ready)) or not wanted:
            return scraped.judge_prometheus(look)
        query = f"sum by (job) ({counter})"
        before = scraped.read_values(self._probes.ask_prometheus(url, query, self._watch.sent_s))

        def ask() -> PrometheusLook:
            targets = self._probes.ask(f"{url}/api/v1/targets", params={"state": "active"})
            grown = self._grown(url, query, before)
            return replace(look, targets=targets, grown=grown, waited_s=self._watch.elapsed_s())

        def is_done(seen: PrometheusLook) -> bool:
            return bool(seen.scraped and seen.counted)

        seen = self._watch.until(Station.PROMETHEUS, ask, is_done, every_s=1.0)
        config = self._probes.ask(f"{url}/api/v1/status/config").get("data", "yaml")
        return scraped.judge_prometheus(replace(seen, config=str(config or "")))

    def look_grafana(self, *, has_loki: bool) -> Finding:
        """Grafana, if there is one. `has_loki`: its data source for Loki must answer, too."""
        named = self._addresses.grafana
        url = named or f"http://127.0.0.1:{shown.PORT}"
        look = GrafanaLook(
            self._probes.ask(f"{url}/api/health"),
            has_credentials=self._has_credentials,
            is_named=bool(named),
        )
        # A token is for a Grafana, not for whatever listens on its port.
        if self._has_credentials and look.health.is_ok and shown.is_grafana(look.health):
            uids = [PROMETHEUS_UID, *([LOKI_UID] if has_loki else [])]
            sources = {
                uid: self._probes.ask_grafana(url, f"/api/datasources/uid/{uid}/health")
                for uid in uids
            }
            look = replace(look, sources=sources)
        return shown.judge_grafana(look)

    def _look_growth(
        self, station: Station, address: str, counter: Counter, limit_s: float
    ) -> PageLook:
        if not address:
            return PageLook("", counter)
        before = self._before.get(address, NOT_ASKED)

        def look() -> PageLook:
            after = self._scrape(address)
            return PageLook(address, counter, before, after, self._watch.elapsed_s())

        def is_done(seen: PageLook) -> bool:
            return seen.has_grown or not seen.after.is_ok

        return self._watch.until(station, look, is_done, limit_s, every_s=0.5)

    def _grown(self, url: str, query: str, before: Mapping[str, float]) -> dict[str, float]:
        now = scraped.read_values(self._probes.ask_prometheus(url, query))
        return {job: value - before.get(job, 0.0) for job, value in now.items()}

    def _wanted(self, node: NodeFacts) -> tuple[Wanted, ...]:
        files = self._facts.discovery
        return tuple(
            Wanted(job, address, files.get(job, ""), _exists(files.get(job, "")))
            for job, address in (("ray", node.port), ("tagtrail", node.page))
            if address
        )

    def _scrape(self, address: str) -> Reply:
        return self._probes.ask(f"http://{address}/metrics")


def _exists(file: str) -> bool | None:
    return None if not file or "*" in file else os.path.exists(file)
