"""What ingresses and handles are told."""

from __future__ import annotations

from typing import Any

from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller.goal import BackendGoal, EndpointGoal, Goal
from serve.controller.observed import Observed, Phase, ReplicaView
from serve.controller.publish import publish
from serve.records import (
    INGRESS_KEY,
    BackendTargets,
    EndpointTargets,
    IngressRoute,
    IngressTable,
    ReplicaAddress,
    backend_key,
    endpoint_key,
)
from serve.traffic import TrafficPolicy


def address(tag: str) -> ReplicaAddress:
    return ReplicaAddress(tag, f"c:{tag}", "n1", "127.0.0.1", 1, 2)


def replica(tag: str, phase: Phase = Phase.RUNNING, is_known: bool = True) -> ReplicaView:
    where = address(tag) if is_known else None
    return ReplicaView(tag, tag.partition("#")[0], phase, 0, address=where)


def seen(*replicas: ReplicaView) -> Observed:
    return Observed({each.tag: each for each in replicas})


def goal_of(*endpoints: EndpointGoal, **options: Any) -> Goal:
    config = BackendConfig(**options)
    backends = {t: BackendGoal(t, "", Traits("f"), {}, config) for t in ("b", "a", "idle")}
    return Goal(
        HTTPOptions(), "n1", b"", backends=backends, endpoints={e.name: e for e in endpoints}
    )


def endpoint(name: str, policy: TrafficPolicy, route: str | None = None) -> EndpointGoal:
    return EndpointGoal(name, route, ("GET", "POST"), True, policy)


def handle_view(goal: Goal, observed: Observed, name: str) -> EndpointTargets:
    value = publish(goal, observed)[endpoint_key(name)]
    assert isinstance(value, EndpointTargets)
    return value


def ingress_view(goal: Goal, observed: Observed) -> IngressTable:
    value = publish(goal, observed)[INGRESS_KEY]
    assert isinstance(value, IngressTable)
    return value


ONLY_A = TrafficPolicy.of({"a": 1.0})


def test_an_empty_instance_publishes_an_empty_table_for_the_ingresses() -> None:
    assert publish(goal_of(), seen())[INGRESS_KEY] == IngressTable()


def test_each_endpoint_has_a_key_of_its_own() -> None:
    values = publish(goal_of(endpoint("e", ONLY_A), endpoint("ingress", ONLY_A)), seen())
    named = {key for key in values if key.startswith("endpoint/")}
    assert named == {"endpoint/e", "endpoint/ingress"}


def test_the_replicas_of_a_backend_hear_of_each_other() -> None:
    values = publish(goal_of(), seen(replica("a#1"), replica("a#2"), replica("b#1")))
    targets = values[backend_key("a")]
    assert isinstance(targets, BackendTargets)
    assert [each.replica_tag for each in targets.replicas] == ["a#1", "a#2"]


def test_only_replicas_that_run_and_have_an_address_take_requests() -> None:
    world = seen(
        replica("a#3"),
        replica("a#1"),
        replica("a#4", Phase.STARTING),
        replica("a#5", Phase.RESTARTING),
        replica("a#6", Phase.STOPPING),
        replica("a#7", is_known=False),
    )
    (targets,) = handle_view(goal_of(endpoint("e", ONLY_A)), world, "e").backends
    assert [each.replica_tag for each in targets.replicas] == ["a#1", "a#3"]


def test_a_backends_limits_reach_those_who_send() -> None:
    goal = goal_of(
        endpoint("e", ONLY_A), max_concurrent_queries=3, max_queued_queries=4, queue_timeout_s=5
    )
    assert handle_view(goal, seen(), "e").backends == (BackendTargets("a", (), 3, 4, 5.0),)


def test_a_handle_learns_of_the_backends_that_only_shadow() -> None:
    policy = TrafficPolicy.of({"b": 1.0}, {"a": 0.5})
    view = handle_view(goal_of(endpoint("e", policy)), seen(), "e")
    assert view.policy == policy
    assert [each.backend_tag for each in view.backends] == ["a", "b"]


def test_an_ingress_learns_of_the_backends_that_endpoints_use_and_of_no_other() -> None:
    goal = goal_of(endpoint("e", TrafficPolicy.of({"b": 1.0}, {"a": 0.5})), endpoint("d", ONLY_A))
    assert [each.backend_tag for each in ingress_view(goal, seen()).backends] == ["a", "b"]


def test_an_ingress_gets_the_routes_in_the_order_they_were_made() -> None:
    goal = goal_of(endpoint("z", ONLY_A, "/z"), endpoint("c", ONLY_A))
    assert ingress_view(goal, seen()).routes == (
        IngressRoute("z", "/z", ("GET", "POST"), True, ONLY_A),
        IngressRoute("c", None, ("GET", "POST"), True, ONLY_A),
    )


def test_what_did_not_change_is_published_as_an_equal_value() -> None:
    goal, world = goal_of(endpoint("e", ONLY_A, "/e")), seen(replica("a#1"))
    assert publish(goal, world) == publish(goal, world)
