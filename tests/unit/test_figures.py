"""What the ingress and the controller count."""

from __future__ import annotations

from observability import catalog
from observability.instrument.access import AccessRecord
from observability.instrument.numbers import Family
from serve.config import HTTPOptions
from serve.controller.figures import controller_families, number_sources
from serve.controller.goal import Goal
from serve.controller.observed import IngressView, Observed, Phase, ReplicaView
from serve.ingress.figures import IngressFigures
from serve.ingress.names import section_name
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.traffic import TrafficPolicy


def values(families: list[Family], metric: catalog.Metric) -> dict[tuple[str, ...], object]:
    (found,) = [family for family in families if family.metric is metric]
    return dict(found.values)


def record(status: int, error: str, endpoint: str = "", route: str = "") -> AccessRecord:
    return AccessRecord(
        way="http", method="GET", status=status, endpoint=endpoint, route=route, error=error
    )


def test_paths_that_match_no_route_are_counted_under_one_name() -> None:
    figures = IngressFigures()
    for _ in range(3):
        figures.count(record(404, "not_found"))

    families = figures.families(0, 0, 0)

    assert values(families, catalog.HTTP_REQUESTS) == {("unmatched", ""): 3.0}
    assert values(families, catalog.ENDPOINT_REQUESTS) == {("", "", "", "4xx", "http"): 3.0}
    assert values(families, catalog.ROUTER_REQUESTS) == {}


def test_a_request_whose_replica_died_had_been_given_to_one() -> None:
    figures = IngressFigures()
    figures.count(record(502, "replica_died", "e", "/e"))
    figures.count(record(503, "queue_full", "e", "/e"))

    families = figures.families(0, 0, 0)

    assert values(families, catalog.ROUTER_REQUESTS) == {("e", ""): 1.0}
    assert values(families, catalog.HTTP_REQUESTS) == {("/e", ""): 2.0}


def test_a_queue_is_told_under_the_names_of_all_endpoints_that_share_it() -> None:
    policy = TrafficPolicy.of({"b": 1.0})
    table = IngressTable(
        (
            IngressRoute("two", "/two", (), False, policy),
            IngressRoute("one", "/one", (), False, policy),
            IngressRoute("handles", None, (), False, policy),
        ),
        (BackendTargets("b"), BackendTargets("unused")),
    )
    figures = IngressFigures()
    figures.set_queues(table, {section_name("b"): 5, "frontend": 9})

    assert values(figures.families(0, 0, 0), catalog.BACKEND_QUEUED) == {("b", "one,two"): 5.0}


def test_a_replica_has_one_state_and_its_restarts() -> None:
    view = ReplicaView("b#1", "b", Phase.RESTARTING, 0.0, restarts=2)
    families = controller_families(Observed(replicas={"b#1": view}), 1.5, 7, 0)

    assert values(families, catalog.REPLICA_STATE) == {("b", "b#1", "RESTARTING"): 1.0}
    assert values(families, catalog.REPLICA_STARTS) == {("b", "b#1"): 2.0}
    assert values(families, catalog.CONTROLLER_LOOP) == {(): 1.5}
    assert values(families, catalog.RECORDS_WRITTEN) == {("controller", "", ""): 7.0}


def make_world(location: str) -> tuple[Goal, Observed]:
    replicas = {}
    for tag, node in (("b#1", "head"), ("b#2", "other")):
        address = ReplicaAddress(tag, f"c:{tag}", node, "10.0.0.1", 1, 2)
        replicas[tag] = ReplicaView(tag, "b", Phase.RUNNING, 0.0, address=address)
    replicas["b#3"] = ReplicaView("b#3", "b", Phase.STARTING, 0.0)
    ingresses = {"head": IngressView("head"), "other": IngressView("other")}
    goal = Goal(HTTPOptions(location=location), "head", b"")
    return goal, Observed(replicas=replicas, ingresses=ingresses)


def test_the_only_ingress_tells_of_every_replica_and_the_controller() -> None:
    goal, observed = make_world("HeadOnly")

    assert number_sources("c", goal, observed, "head") == ["c:b#1", "c:b#2", "c"]


def test_with_an_ingress_on_every_node_each_actor_is_on_one_page() -> None:
    goal, observed = make_world("EveryNode")

    pages = [number_sources("c", goal, observed, node) for node in ("head", "other")]

    assert pages == [["c:b#1", "c"], ["c:b#2"]]


def test_the_list_of_everything_names_the_ingresses_too() -> None:
    goal, observed = make_world("EveryNode")

    names = number_sources("c", goal, observed, "")

    assert names == [
        *("c:b#1", "c:b#2", "c"),
        *("c:SERVE_PROXY_ACTOR-head", "c:SERVE_PROXY_ACTOR-other"),
    ]
