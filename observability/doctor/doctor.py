"""Sends the canary and looks for it, station by station.

It knows no Ray: who calls it hands in what the cluster tells. What the answers mean is judged in
the pure files beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from observability.doctor import agents, entrance
from observability.doctor.counted import counter_of
from observability.doctor.entrance import ID, NO_ENDPOINT_PATH, REPLICA, AnswerLook, Canary
from observability.doctor.facts import Addresses, InstanceFacts
from observability.doctor.findings import Finding, Outcome, Station, absent, skipped
from observability.doctor.numbers_way import NumbersWay
from observability.doctor.probes import Probes
from observability.doctor.records_way import RecordsWay
from observability.doctor.stores import Store
from observability.doctor.watch import Waiting, Watch
from observability.trail.nodes import RayNode
from observability.trail.segments import SegmentFolder

ANSWER_S = 30.0
"""A handler may take long; it is asked for once."""


class Doctor:
    """One examination.

    Args:
        facts: of the instance.
        addresses: programs that the user named.
        canary: the request.
        here: this node's segments.
        others: the other nodes'.
        probes: ask.
        has_credentials: the probes have a token or a user for Grafana.
        timeout_s: longest wait at a station, seconds.
        waiting: told of each wait.
    """

    def __init__(
        self,
        facts: InstanceFacts,
        addresses: Addresses,
        canary: Canary,
        here: SegmentFolder,
        others: Sequence[RayNode],
        probes: Probes,
        *,
        has_credentials: bool,
        timeout_s: float,
        waiting: Waiting,
    ) -> None:
        self._facts = facts
        self._canary = canary
        self._probes = probes
        self._watch = Watch(timeout_s, waiting)
        self._records = RecordsWay(canary, here, others, addresses, probes, self._watch)
        self._numbers = NumbersWay(
            facts, addresses, probes, self._watch, has_credentials=has_credentials
        )

    def examine(self) -> Iterator[Finding]:
        """The findings from the answer on, as they are made."""
        agent = self._records.look_agent()
        self._numbers.look_before()
        answer, replica = self._send()
        yield answer
        if answer.outcome is not Outcome.OK:
            why = "no canary is under way"
            yield skipped(Station.SEGMENT, why)
            yield agents.judge_agent(agent)
            for station in (Station.STORE, Station.PAGE, Station.PORT, Station.PROMETHEUS):
                yield skipped(station, why)
            yield self._numbers.look_grafana(has_loki=False)
            return
        node, counter = self._facts.node_of(replica), counter_of(replica)
        backend = replica.rpartition("#")[0]
        has_access_log = self._facts.has_access_log.get(backend, True)
        look = self._records.look_segment(node, has_access_log=has_access_log)
        segment = self._records.judge_segment(
            look, 0.0 if look.count else self._numbers.dropped_since(node)
        )
        yield segment
        yield agents.judge_agent(agent)
        stored = self._records.look_stores(segment, agent)
        yield from stored
        yield self._numbers.look_page(node, counter)
        yield self._numbers.look_port(node, counter)
        yield self._numbers.look_prometheus(node, counter)
        has_loki = any(f.outcome is Outcome.OK and Store.LOKI.value in f.detail for f in stored)
        yield self._numbers.look_grafana(has_loki=has_loki)

    def _send(self) -> tuple[Finding, str]:
        """What of the answer, and the tag of the replica that gave it; "": none."""
        if not self._facts.ingress:
            return absent(Station.ANSWER, self._facts.no_ingress), ""
        self._watch.waiting(Station.ANSWER, 0.0)
        self._watch.start()
        reply = self._probes.ask(
            f"http://{self._facts.ingress}{self._canary.path or NO_ENDPOINT_PATH}",
            headers={ID: self._canary.request_id},
            limit_s=ANSWER_S,
        )
        look = AnswerLook(self._canary, reply, self._facts.silent)
        return entrance.judge_answer(look), reply.headers.get(REPLICA, "")
