"""Follows the canary's record: segments, log agent, log store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace

from observability.doctor import agents, entrance, stores
from observability.doctor.agents import AGENTS, AgentLook, Counts
from observability.doctor.entrance import Canary, SegmentLook
from observability.doctor.facts import Addresses, NodeFacts
from observability.doctor.findings import Finding, Outcome, Station, skipped
from observability.doctor.probes import Probes
from observability.doctor.reply import Reply
from observability.doctor.stores import Sent, Store, StoreLook
from observability.doctor.watch import Watch
from observability.trail.nodes import RayNode
from observability.trail.query import Query
from observability.trail.segments import SegmentFolder
from observability.trail.source import Source

SEGMENT_S = 5.0
"""A record is on disk when its request is answered, of an ingress within 0.1 s."""


class RecordsWay:
    """One canary's.

    Args:
        canary: the request.
        here: this node's segments.
        others: the other nodes'.
        addresses: programs that the user named.
        probes: ask.
        watch: waits.
    """

    def __init__(
        self,
        canary: Canary,
        here: SegmentFolder,
        others: Sequence[RayNode],
        addresses: Addresses,
        probes: Probes,
        watch: Watch,
    ) -> None:
        self._canary = canary
        self._here = here
        self._others = others
        self._addresses = addresses
        self._probes = probes
        self._watch = watch

    def look_segment(self, node: NodeFacts, *, has_access_log: bool) -> SegmentLook:
        """The segments of the node that answered."""
        query = Query(request_id=self._canary.request_id)
        sources: list[Source] = [self._here] if node.is_here else [*self._others]

        def count() -> int:
            return sum(1 for source in sources for _ in source.read(query))

        limit_s = SEGMENT_S if node.is_here else self._watch.timeout_s
        found = self._watch.until(Station.SEGMENT, count, bool, limit_s)
        folder = self._here.path
        return SegmentLook(
            self._canary.path,
            str(folder),
            found,
            self._watch.elapsed_s(),
            exists=folder.is_dir(),
            is_here=node.is_here,
            has_access_log=has_access_log,
            free_bytes=shutil.disk_usage(folder).free if folder.is_dir() else None,
            problems=tuple(problem for other in self._others for problem in other.problems[-1:]),
        )

    def judge_segment(self, look: SegmentLook, dropped: float) -> Finding:
        """What of it. `dropped`: records that could not be written meanwhile."""
        return entrance.judge_segment(replace(look, dropped=dropped))

    def look_agent(self) -> AgentLook | None:
        """The agent that was named, or the first one that is found where agents usually are."""
        named = self._addresses.agent
        self._watch.waiting(Station.AGENT, 0.0)
        for url in [named] if named else [f"http://127.0.0.1:{kind.port}" for kind in AGENTS]:
            page = self._probes.ask(f"{url}/metrics")
            kind = agents.recognise(page.text) if page.is_ok else None
            if kind is not None:
                health = self._probes.ask(f"{url}{kind.health}")
                return AgentLook(page, kind, health, bool(named))
            if named:
                return AgentLook(page, is_named=True)
        return None

    def look_stores(self, segment: Finding, agent: AgentLook | None) -> list[Finding]:
        """Both kinds of stores, where they are. `agent`: as it was before the canary was sent."""
        if segment.outcome is not Outcome.OK:
            return [skipped(Station.STORE, "there is no record that could have come there")]
        named = {
            Store.LOKI: self._addresses.loki,
            Store.VICTORIA_LOGS: self._addresses.victoria_logs,
        }
        return stores.judge_stores([self._look_store(s, named[s], agent) for s in Store])

    def _look_store(self, store: Store, named: str, agent: AgentLook | None) -> Finding:
        url = named or f"http://127.0.0.1:{store.port}"
        health = self._probes.ask(f"{url}{store.health}")
        look = StoreLook(store, health, is_named=bool(named))
        if not health.is_ok or not (named or store.is_seen(health)):
            return stores.judge_store(look)

        def find() -> tuple[Reply, int]:
            reply = self._probes.ask_store(store, url, self._canary.request_id)
            return reply, stores.count_records(store, reply)

        reply, found = self._watch.until(Station.STORE, find, lambda seen: seen[1] > 0)
        waited_s = self._watch.elapsed_s()
        sent = None if found else self._what_agent_sent(agent)
        return stores.judge_store(
            replace(look, found=reply, count=found, waited_s=waited_s, sent=sent)
        )

    def _what_agent_sent(self, before: AgentLook | None) -> Sent | None:
        if before is None or before.agent is None:
            return None
        kind, folder = before.agent, str(self._here.path)
        page = self._probes.ask(before.page.url)
        folders = agents.read_folders(kind, page.text)
        grown = Counts()
        if page.is_ok:
            grown = agents.count(kind, page.text).since(agents.count(kind, before.page.text))
        return Sent(
            kind.name,
            page.is_ok and before.health.is_ok,
            grown,
            folders,
            os.path.realpath(folder) in {os.path.realpath(path) for path in folders},
            folder,
        )
