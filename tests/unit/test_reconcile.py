"""What the controller does next, for each difference of goal and world, and that it gets there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller.goal import BackendGoal, Goal
from serve.controller.health import CheckReplica, RestartReplica
from serve.controller.observed import Failure, IngressView, Observed, Phase, ReplicaView
from serve.controller.reconcile import (
    Action,
    ExposeReplica,
    FailReplica,
    ReconfigureReplica,
    StartIngress,
    StartReplica,
    StopIngress,
    StopReplica,
    backoff_s,
    reconcile,
    replicas_of,
)
from serve.records import ReplicaAddress


def backend(tag: str = "a", version: int = 1, **options: Any) -> BackendGoal:
    config = BackendConfig(**options)
    resources = {"num_cpus": 2, "num_gpus": 0, "resources": {"Magic": 1}}
    return BackendGoal(tag, "", Traits("handler"), resources, config, version)


def goal_of(*backends: BackendGoal, location: str = "NoServer", head: str = "n1") -> Goal:
    return Goal(
        HTTPOptions(location=location), head, b"", backends={each.tag: each for each in backends}
    )


def replica(tag: str, phase: Phase = Phase.RUNNING, since: float = 0, **facts: Any) -> ReplicaView:
    facts.setdefault("config_version", 1)
    facts.setdefault("heard_at", since)
    return ReplicaView(tag, tag.partition("#")[0], phase, since, **facts)


def seen(*replicas: ReplicaView, **facts: Any) -> Observed:
    return Observed({each.tag: each for each in replicas}, **facts)


def test_a_world_at_its_goal_needs_nothing() -> None:
    goal = goal_of(backend(num_replicas=2))
    assert reconcile(goal, seen(replica("a#1"), replica("a#2")), 0) == []


def test_as_many_replicas_are_started_as_are_missing() -> None:
    goal = goal_of(backend(num_replicas=3))
    assert reconcile(goal, seen(replica("a#1")), 0) == [StartReplica("a")] * 2


def test_a_starting_and_a_restarting_replica_count_as_there() -> None:
    goal = goal_of(backend(num_replicas=2))
    world = seen(replica("a#1", Phase.STARTING), replica("a#2", Phase.RESTARTING))
    assert reconcile(goal, world, 0) == []


def test_a_replica_is_exposed_once_there_is_another_node() -> None:
    goal = goal_of(backend())
    own = ReplicaAddress("a#1", "actor", "n1", "127.0.0.1", 1, 2, is_exposed=False)
    alone = seen(replica("a#1", address=own), node_ids=("n1",))
    assert reconcile(goal, alone, 0) == []

    joined = replace(alone, node_ids=("n1", "n2"))
    assert reconcile(goal, joined, 0) == [ExposeReplica("a#1")]

    for change in (
        {"is_exposing": True},
        {"address": replace(own, host="10.0.0.1", is_exposed=True)},
        {"phase": Phase.RESTARTING},
    ):
        view = replace(joined.replicas["a#1"], **change)
        assert reconcile(goal, replace(joined, replicas={"a#1": view}), 0) == []


def test_a_stopping_replica_does_not_count_as_there() -> None:
    assert reconcile(goal_of(backend()), seen(replica("a#1", Phase.STOPPING)), 0) == [
        StartReplica("a")
    ]


def test_replicas_that_do_not_run_go_first() -> None:
    world = seen(
        replica("a#1", since=9),
        replica("a#2", Phase.STARTING, since=1),
        replica("a#3", Phase.RESTARTING, since=2),
    )
    goal = goal_of(backend(num_replicas=1))
    assert reconcile(goal, world, 10) == [StopReplica("a#3"), StopReplica("a#2")]


def test_of_running_replicas_the_youngest_goes_first() -> None:
    world = seen(replica("a#1", since=1), replica("a#2", since=5), replica("a#3", since=3))
    assert reconcile(goal_of(backend(num_replicas=2)), world, 9) == [StopReplica("a#2")]


def test_replicas_of_a_backend_that_is_gone_are_stopped_once() -> None:
    world = seen(replica("x#1"), replica("x#2", Phase.STARTING), replica("x#3", Phase.STOPPING))
    assert reconcile(goal_of(), world, 0) == [StopReplica("x#1"), StopReplica("x#2")]


def test_the_wait_after_failures_doubles_up_to_thirty_seconds() -> None:
    assert [backoff_s(count) for count in (1, 2, 3, 4, 5, 6, 7, 10_000)] == [
        1, 2, 4, 8, 16, 30, 30, 30,
    ]  # fmt: skip


@pytest.mark.parametrize(("now", "starts"), [(103.9, 0), (104.0, 1)])
def test_after_a_failed_start_the_next_one_waits_its_time(now: float, starts: int) -> None:
    world = seen(failures={"a": Failure(3, 100.0, "boom")})
    assert reconcile(goal_of(backend()), world, now) == [StartReplica("a")] * starts


def test_a_backends_failure_does_not_hold_back_another() -> None:
    world = seen(failures={"a": Failure(3, 100.0, "boom")})
    goal = goal_of(backend("a"), backend("b"))
    assert reconcile(goal, world, 100) == [StartReplica("b")]


def test_a_running_replica_with_an_older_configuration_is_reconfigured() -> None:
    goal = goal_of(backend(version=4, num_replicas=2))
    world = seen(replica("a#1", config_version=3), replica("a#2", config_version=4))
    assert reconcile(goal, world, 0) == [ReconfigureReplica("a#1", 4)]


@pytest.mark.parametrize(
    "view",
    [
        replica("a#1", config_version=1, is_reconfiguring=True),
        replica("a#1", Phase.STARTING, config_version=0),
        replica("a#1", Phase.RESTARTING, config_version=1),
    ],
    ids=["is at it", "starting", "restarting"],
)
def test_a_replica_that_cannot_take_a_configuration_now_is_left_alone(view: ReplicaView) -> None:
    assert reconcile(goal_of(backend(version=2)), seen(view), 0) == []


def test_a_replica_without_resources_fails_after_its_time_and_says_what_it_asked_for() -> None:
    goal = goal_of(backend(placement_timeout_s=5))
    world = seen(replica("a#1", Phase.STARTING, since=100))
    assert reconcile(goal, world, 105) == []
    (failed,) = reconcile(goal, world, 105.1)
    assert isinstance(failed, FailReplica) and failed.replica_tag == "a#1"
    assert failed.message.startswith(
        "Replica 'a#1' of backend 'a' got no resources within 5 s (placement_timeout_s). "
        "It asks for {'CPU': 2, 'Magic': 1}."
    )


def test_a_slow_constructor_fails_after_its_time_and_says_which_option_to_raise() -> None:
    goal = goal_of(backend(placement_timeout_s=5, startup_timeout_s=50))
    world = seen(replica("a#1", Phase.STARTING, since=100, is_placed=True))
    assert reconcile(goal, world, 150) == []
    (failed,) = reconcile(goal, world, 150.1)
    assert isinstance(failed, FailReplica)
    assert "was still in its constructor after 50 s (startup_timeout_s)" in failed.message


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.RESTARTING, Phase.STOPPING])
def test_a_replica_that_came_up_once_does_not_expire(phase: Phase) -> None:
    goal = goal_of(backend(placement_timeout_s=5, startup_timeout_s=5))
    actions = reconcile(goal, seen(replica("a#1", phase, since=0)), 1e6)
    assert not any(isinstance(action, FailReplica) for action in actions)


def test_a_restarted_process_that_hangs_in_its_constructor_fails_too() -> None:
    goal = goal_of(backend(startup_timeout_s=5))
    world = seen(replica("a#1", Phase.RESTARTING, since=100, is_placed=True))
    assert reconcile(goal, world, 105) == []
    (failed,) = reconcile(goal, world, 105.1)
    assert isinstance(failed, FailReplica)


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RESTARTING])
def test_a_replica_whose_process_ends_in_the_constructor_again_and_again_fails(
    phase: Phase,
) -> None:
    assert (
        reconcile(goal_of(backend()), seen(replica("a#1", phase, is_placed=True, starts=2)), 1)
        == []
    )
    (failed,) = reconcile(
        goal_of(backend()), seen(replica("a#1", phase, is_placed=True, starts=3)), 1
    )
    assert isinstance(failed, FailReplica)
    assert "its process ended 2 times in its constructor" in failed.message


@pytest.mark.parametrize(
    ("location", "nodes"), [("NoServer", []), ("HeadOnly", ["n1"]), ("EveryNode", ["n1", "n2"])]
)
def test_each_location_places_ingresses_on_its_nodes(location: str, nodes: list[str]) -> None:
    world = seen(node_ids=("n2", "n1"))
    assert reconcile(goal_of(location=location), world, 0) == [StartIngress(n) for n in nodes]


def test_a_head_that_is_not_alive_gets_no_ingress() -> None:
    goal = goal_of(location="HeadOnly", head="gone")
    assert reconcile(goal, seen(node_ids=("n1",)), 0) == []


def test_the_ingress_of_a_node_that_went_away_is_ended() -> None:
    world = seen(ingresses={"n1": IngressView("n1"), "n2": IngressView("n2")}, node_ids=("n1",))
    assert reconcile(goal_of(location="EveryNode"), world, 0) == [StopIngress("n2")]


def test_without_a_server_every_ingress_is_ended() -> None:
    world = seen(ingresses={"n1": IngressView("n1")}, node_ids=("n1",))
    assert reconcile(goal_of(), world, 0) == [StopIngress("n1")]


def test_the_replicas_of_a_backend_come_in_the_order_of_their_tags_without_those_stopping() -> None:
    world = seen(
        replica("a#2"),
        replica("a#3", Phase.STOPPING),
        replica("b#1"),
        replica("a#1", Phase.STARTING),
    )
    assert [view.tag for view in replicas_of(world, "a")] == ["a#1", "a#2"]


@dataclass
class SimulatedWorld:
    """Does what it is told, one phase a turn: what was starting runs, what was stopping is gone."""

    observed: Observed
    made: int = 0
    stopped_in_turn: list[str] = field(default_factory=list)

    def turn(self, goal: Goal, now: float) -> list[Action]:
        replicas = {
            tag: self._aged(view, goal, now)
            for tag, view in self.observed.replicas.items()
            if view.phase is not Phase.STOPPING
        }
        self.observed = replace(self.observed, replicas=replicas)
        actions = reconcile(goal, self.observed, now)
        for action in actions:
            self._perform(action, goal, now)
        return actions

    @staticmethod
    def _aged(view: ReplicaView, goal: Goal, now: float) -> ReplicaView:
        if view.phase is Phase.RUNNING:
            return view
        known = goal.backends.get(view.backend_tag)
        version = known.version if known else 0
        return replace(
            view,
            phase=Phase.RUNNING,
            since=now,
            heard_at=now,
            asked_at=None,
            is_placed=True,
            config_version=version,
        )

    def _perform(self, action: Action, goal: Goal, now: float) -> None:
        replicas = dict(self.observed.replicas)
        ingresses = dict(self.observed.ingresses)
        if isinstance(action, StartReplica):
            self.made += 1
            tag = f"{action.backend_tag}#new{self.made}"
            replicas[tag] = replica(tag, Phase.STARTING, now, config_version=0)
        elif isinstance(action, (StopReplica, FailReplica)):
            view = replicas[action.replica_tag]
            replicas[view.tag] = replace(view, phase=Phase.STOPPING, since=now)
        elif isinstance(action, ReconfigureReplica):
            view = replicas[action.replica_tag]
            replicas[view.tag] = replace(view, config_version=action.version)
        elif isinstance(action, CheckReplica):
            replicas[action.replica_tag] = replace(replicas[action.replica_tag], heard_at=now)
        elif isinstance(action, RestartReplica):
            view = replicas[action.replica_tag]
            replicas[view.tag] = replace(view, phase=Phase.UNRESPONSIVE, since=now)
        elif isinstance(action, StartIngress):
            ingresses[action.node_id] = IngressView(action.node_id)
        else:
            del ingresses[action.node_id]
        self.observed = replace(self.observed, replicas=replicas, ingresses=ingresses)


TAGS = ("a", "b", "left-over")
NODES = ("n1", "n2", "n3")


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    backends = [
        backend(tag, draw(st.integers(1, 3)), num_replicas=draw(st.integers(1, 5)))
        for tag in draw(st.sets(st.sampled_from(TAGS[:2])))
    ]
    return goal_of(*backends, location=draw(st.sampled_from(["NoServer", "HeadOnly", "EveryNode"])))


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    views = [
        replica(
            f"{draw(st.sampled_from(TAGS))}#{number}",
            draw(st.sampled_from(Phase)),
            draw(st.floats(0, 100)),
            is_placed=draw(st.booleans()),
            asked_at=draw(st.none() | st.floats(0, 100)),
            config_version=draw(st.integers(0, 3)),
        )
        for number in range(draw(st.integers(0, 8)))
    ]
    failures = {
        tag: Failure(draw(st.integers(1, 9)), draw(st.floats(0, 100)), "boom")
        for tag in draw(st.sets(st.sampled_from(TAGS)))
    }
    ingresses = {
        node: IngressView(node) for node in draw(st.sets(st.sampled_from([*NODES, "old"])))
    }
    nodes = tuple(sorted(draw(st.sets(st.sampled_from(NODES)))))
    return seen(*views, failures=failures, ingresses=ingresses, node_ids=nodes)


@given(goals(), worlds())
def test_from_any_world_the_goal_is_reached_and_then_nothing_is_done(
    goal: Goal, observed: Observed
) -> None:
    world = SimulatedWorld(observed)
    for turn in range(8):
        world.turn(goal, 200 + 31.0 * turn)
    assert [a for a in world.turn(goal, 500) if not isinstance(a, CheckReplica)] == []
    running = [(v.backend_tag, v.config_version) for v in world.observed.replicas.values()]
    wanted = [
        (b.tag, b.version) for b in goal.backends.values() for _ in range(b.config.num_replicas)
    ]
    assert sorted(running) == sorted(wanted)
    assert all(view.phase is Phase.RUNNING for view in world.observed.replicas.values())


@given(goals(), worlds(), st.floats(100, 1000))
def test_no_running_replica_goes_while_one_that_does_not_run_could(
    goal: Goal, observed: Observed, now: float
) -> None:
    actions = reconcile(goal, observed, now)
    gone = {a.replica_tag for a in actions if isinstance(a, (StopReplica, FailReplica))}
    for each in goal.backends:
        stays = [view for view in replicas_of(observed, each) if view.tag not in gone]
        is_running_stopped = any(
            observed.replicas[tag].phase is Phase.RUNNING
            for tag in gone
            if observed.replicas[tag].backend_tag == each
        )
        if is_running_stopped:
            assert all(view.phase is Phase.RUNNING for view in stays)


@given(goals(), worlds(), st.floats(100, 1000))
def test_a_backend_never_gets_fewer_running_replicas_than_it_should_have(
    goal: Goal, observed: Observed, now: float
) -> None:
    stopped = {a.replica_tag for a in reconcile(goal, observed, now) if isinstance(a, StopReplica)}
    for each in goal.backends.values():
        running = [v for v in replicas_of(observed, each.tag) if v.phase is Phase.RUNNING]
        left = [view for view in running if view.tag not in stopped]
        assert len(left) >= min(len(running), each.config.num_replicas)


@given(goals(), worlds(), st.floats(0, 1000))
def test_no_replica_is_told_to_stop_twice(goal: Goal, observed: Observed, now: float) -> None:
    tags = [a.replica_tag for a in reconcile(goal, observed, now) if isinstance(a, StopReplica)]
    assert len(tags) == len(set(tags))
