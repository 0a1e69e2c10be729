"""How a table becomes the next one."""

from __future__ import annotations

import dataclasses

import pytest

from serve.ingress.names import section_name, server_name
from serve.ingress.plan import (
    AddServer,
    ChangeKind,
    RemoveServer,
    SetAddress,
    keep_servers,
    leave_unreachable,
    plan_change,
)
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.traffic import TrafficPolicy


def member(name: str, port: int = 1) -> ReplicaAddress:
    return ReplicaAddress(f"b#{name}", "actor", "node", "h", port, 0)


def table(*members: ReplicaAddress, **limits: int) -> IngressTable:
    route = IngressRoute("e", "/f", ("GET",), False, TrafficPolicy.of({"b": 1}))
    return IngressTable((route,), (BackendTargets("b", members, **limits),))


B = section_name("b")


def test_the_same_table_needs_nothing() -> None:
    assert plan_change(table(member("x")), table(member("x"))).kind is ChangeKind.NOTHING


def test_what_only_handles_read_needs_nothing_but_is_remembered() -> None:
    new = table(dataclasses.replace(member("x"), call_port=9))
    change = plan_change(table(member("x")), new)
    assert (change.kind, change.commands, change.table) == (ChangeKind.NOTHING, (), new)


def test_replicas_come_before_others_go() -> None:
    old, new = table(member("a"), member("b")), table(member("b"), member("c", 7))
    change = plan_change(old, new)
    assert change.kind is ChangeKind.RUNTIME
    assert change.commands == (
        AddServer(B, server_name("b#c"), "h", 7, 8),
        RemoveServer(B, server_name("b#a")),
    )


def test_a_replica_that_moved_gets_its_new_address() -> None:
    change = plan_change(table(member("a", 1)), table(member("a", 2)))
    assert change.kind is ChangeKind.RUNTIME
    assert change.commands == (SetAddress(B, server_name("b#a"), "h", 2),)


def test_a_replica_that_only_its_own_node_reaches_is_left_out_elsewhere() -> None:
    own = dataclasses.replace(member("a"), host="127.0.0.1", is_exposed=False)
    both = table(own, member("b"))
    assert leave_unreachable(both, "node") == both
    assert leave_unreachable(both, "") == both  # whoever does not know its node has but one
    assert leave_unreachable(both, "other") == table(member("b"))


def test_the_first_replica_of_a_backend_needs_no_reload() -> None:
    assert plan_change(table(), table(member("a"))).kind is ChangeKind.RUNTIME


def test_a_backend_that_lost_all_replicas_keeps_its_last_servers() -> None:
    old = table(member("a"), member("b"))
    change = plan_change(old, table())
    assert (change.kind, change.table) == (ChangeKind.NOTHING, old)
    back = plan_change(change.table, table(member("a", 9)))
    assert back.commands == (
        SetAddress(B, server_name("b#a"), "h", 9),
        RemoveServer(B, server_name("b#b")),
    )


def test_a_backend_that_is_gone_takes_its_servers_along() -> None:
    change = plan_change(table(member("a")), IngressTable())
    assert (change.kind, change.table) == (ChangeKind.RELOAD, IngressTable())


def test_kept_servers_survive_a_reload() -> None:
    change = plan_change(table(member("a")), table(max_queued_queries=5))
    assert change.kind is ChangeKind.RELOAD
    assert change.table.backends[0].replicas == (member("a"),)


@pytest.mark.parametrize("limit", ["max_concurrent_queries", "max_queued_queries"])
def test_other_limits_need_a_reload(limit: str) -> None:
    change = plan_change(table(member("a")), table(member("a"), **{limit: 3}))
    assert change.kind is ChangeKind.RELOAD


def test_other_routes_need_a_reload() -> None:
    old = table(member("a"))
    for part in (
        {"route": "/g"},
        {"methods": ("POST",)},
        {"is_mount": True},
        {"policy": TrafficPolicy.of({"b": 1}, {"b": 0.5})},
    ):
        route = dataclasses.replace(old.routes[0], **part)  # type: ignore[arg-type]
        new = dataclasses.replace(old, routes=(route,))
        assert plan_change(old, new).kind is ChangeKind.RELOAD, part


def test_the_order_of_backends_means_nothing() -> None:
    one, two = BackendTargets("a", (member("a"),)), BackendTargets("b", (member("b"),))
    change = plan_change(IngressTable((), (one, two)), IngressTable((), (two, one)))
    assert change.kind is ChangeKind.NOTHING


def test_a_backend_that_only_a_policy_names_is_there_without_replicas() -> None:
    routes = table().routes
    assert keep_servers(IngressTable(), IngressTable(routes)).backends == (BackendTargets("b"),)


def at(node: str, name: str) -> ReplicaAddress:
    return dataclasses.replace(member(name), node_id=node)


@pytest.mark.parametrize(
    ("node", "kind"), [("here", ChangeKind.RELOAD), ("there", ChangeKind.RUNTIME)]
)
def test_a_replica_of_the_preferred_node_has_a_rule(node: str, kind: ChangeKind) -> None:
    few = table(at("here", "a"), at("there", "b"))
    more = table(at("here", "a"), at("there", "b"), at(node, "c"))
    assert plan_change(few, more, "here").kind is kind
    assert plan_change(more, few, "here").kind is kind
    assert plan_change(few, more).kind is ChangeKind.RUNTIME


def test_a_replica_that_starts_anew_on_the_preferred_node_keeps_its_rule() -> None:
    moved = dataclasses.replace(at("here", "a"), http_port=2)
    change = plan_change(table(at("here", "a")), table(moved), "here")
    assert change.commands == (SetAddress(B, server_name("b#a"), "h", 2),)


def test_a_replica_that_changes_its_node_gains_or_loses_its_rule() -> None:
    here, there = table(at("here", "a")), table(at("there", "a"))
    assert plan_change(here, there, "here").kind is ChangeKind.RELOAD
    assert plan_change(there, here, "here").kind is ChangeKind.RELOAD
