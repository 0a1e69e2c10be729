"""How each call changes the goal: what is refused, in which words, and that it changes nothing."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller import goal as goals
from serve.controller.goal import BackendGoal, EndpointGoal, Goal
from serve.traffic import TrafficPolicy

FUNCTION = Traits("handler")
CLASS = Traits("Model", is_function=False)


def backend(
    tag: str, change_id: str = "", traits: Traits = FUNCTION, **options: Any
) -> BackendGoal:
    config = BackendConfig(**options).resolve(traits)
    return BackendGoal(tag, "", traits, {"num_cpus": 1}, config, change_id=change_id or tag)


def endpoint(
    name: str, route: str | None = None, tag: str = "a", change_id: str = ""
) -> EndpointGoal:
    policy = TrafficPolicy.of({tag: 1.0})
    return EndpointGoal(name, route, ("GET",), False, policy, change_id or name)


def empty() -> Goal:
    return Goal(HTTPOptions(), "head", b"secret")


@pytest.fixture
def goal() -> Goal:
    """Backends a, b and idle; endpoint e on /f with traffic to a."""
    goal = empty()
    for tag in ("a", "b", "idle"):
        goal = goals.create_backend(goal, backend(tag))
    return goals.create_endpoint(goal, endpoint("e", "/f"))


def refuse(goal: Goal, message: str, change: Callable[[], object]) -> None:
    """The change raises ValueError with that text in it and leaves the goal as it was."""
    before = copy.deepcopy(goal)
    with pytest.raises(ValueError, match=re.escape(message)):
        change()
    assert goal == before


def test_a_new_backend_is_in_the_next_goal_and_not_in_the_last() -> None:
    before = empty()
    after = goals.create_backend(before, backend("a"))
    assert (list(before.backends), list(after.backends)) == ([], ["a"])


def test_backends_keep_the_order_they_were_made_in(goal: Goal) -> None:
    assert list(goals.create_backend(goal, backend("A")).backends) == ["a", "b", "idle", "A"]


def test_a_backend_tag_that_is_taken_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Cannot create backend. Backend 'a' is already registered.",
        lambda: goals.create_backend(goal, backend("a", change_id="another call")),
    )


def test_the_same_create_backend_call_sent_again_changes_nothing(goal: Goal) -> None:
    assert goals.create_backend(goal, backend("a")) is goal


def test_an_update_takes_only_what_was_set_and_raises_the_version(goal: Goal) -> None:
    goal = goals.update_backend(goal, "a", BackendConfig(num_replicas=3))
    goal = goals.update_backend(goal, "a", BackendConfig(queue_timeout_s=5))
    updated = goal.backends["a"]
    assert (updated.config.num_replicas, updated.config.queue_timeout_s) == (3, 5)
    assert (updated.version, goal.backends["b"].version) == (3, 1)


def test_an_update_of_the_batch_size_moves_the_concurrency_that_depends_on_it() -> None:
    batched = Traits("handler", accepts_batches=True)
    goal = goals.create_backend(empty(), backend("a", traits=batched))
    goal = goals.update_backend(goal, "a", BackendConfig(max_batch_size=6))
    assert goal.backends["a"].config.max_concurrent_queries == 12


def test_an_update_of_an_unknown_backend_is_refused_and_names_those_there_are(goal: Goal) -> None:
    refuse(
        goal,
        "Backend x is not registered. Registered: 'a', 'b', 'idle'.",
        lambda: goals.update_backend(goal, "x", BackendConfig()),
    )


def test_an_unknown_backend_where_there_are_none_says_so() -> None:
    refuse(
        empty(),
        "Registered: none.",
        lambda: goals.update_backend(empty(), "x", BackendConfig()),
    )


def test_a_batch_size_for_a_callable_that_takes_no_batches_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "max_batch_size is set to 2 for backend 'a', but 'handler' does not accept batches.",
        lambda: goals.update_backend(goal, "a", BackendConfig(max_batch_size=2)),
    )


def test_a_batch_size_of_one_fits_every_callable(goal: Goal) -> None:
    goal = goals.update_backend(goal, "a", BackendConfig(max_batch_size=1))
    assert goal.backends["a"].config.max_batch_size == 1


def test_a_user_config_for_a_function_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "user_config is set for backend 'a', but 'handler' is a function and has no reconfigure",
        lambda: goals.update_backend(goal, "a", BackendConfig(user_config={"x": 1})),
    )


def test_a_user_config_for_a_class_is_taken() -> None:
    goal = goals.create_backend(empty(), backend("a", traits=CLASS))
    goal = goals.update_backend(goal, "a", BackendConfig(user_config={"x": 1}))
    assert goal.backends["a"].config.user_config == {"x": 1}


def test_a_backend_that_no_endpoint_uses_can_be_deleted(goal: Goal) -> None:
    assert list(goals.delete_backend(goal, "idle").backends) == ["a", "b"]


def test_deleting_an_unknown_backend_changes_nothing(goal: Goal) -> None:
    assert goals.delete_backend(goal, "x") == goal


_IN_USE = (
    "Backend '{}' is used by endpoint 'e' and cannot be deleted. "
    "Please remove the backend from all endpoints and try again."
)


def test_a_backend_with_traffic_cannot_be_deleted(goal: Goal) -> None:
    refuse(goal, _IN_USE.format("a"), lambda: goals.delete_backend(goal, "a"))


def test_a_backend_with_a_weight_of_zero_cannot_be_deleted(goal: Goal) -> None:
    goal = goals.set_traffic(goal, "e", {"a": 1, "b": 0})
    refuse(goal, _IN_USE.format("b"), lambda: goals.delete_backend(goal, "b"))


def test_a_backend_that_shadows_cannot_be_deleted_until_the_shadow_ends(goal: Goal) -> None:
    goal = goals.shadow_traffic(goal, "e", "b", 0.5)
    refuse(goal, _IN_USE.format("b"), lambda: goals.delete_backend(goal, "b"))
    goal = goals.shadow_traffic(goal, "e", "b", 0)
    assert "b" not in goals.delete_backend(goal, "b").backends


def test_an_endpoint_for_an_unknown_backend_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Attempted to assign traffic to a backend 'zz' that is not registered.",
        lambda: goals.create_endpoint(goal, endpoint("c", tag="zz")),
    )


def test_a_route_that_is_taken_is_refused_and_names_its_owner(goal: Goal) -> None:
    refuse(
        goal,
        "Cannot create endpoint. Route '/f' is already registered. It belongs to endpoint 'e'",
        lambda: goals.create_endpoint(goal, endpoint("c", "/f")),
    )


def test_an_endpoint_name_that_is_taken_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Cannot create endpoint. Endpoint 'e' is already registered.",
        lambda: goals.create_endpoint(goal, endpoint("e", "/g", change_id="another call")),
    )


def test_an_endpoint_that_is_there_already_points_to_set_traffic(goal: Goal) -> None:
    refuse(
        goal,
        "Route '/f' is already registered to endpoint 'e' with methods '['GET']'.  "
        "To set the backend for this endpoint, please use serve.set_traffic().",
        lambda: goals.create_endpoint(goal, endpoint("e", "/f", change_id="another call")),
    )


def test_the_same_create_endpoint_call_sent_again_changes_nothing(goal: Goal) -> None:
    assert goals.create_endpoint(goal, endpoint("e", "/f")) is goal


def test_endpoints_without_a_route_do_not_clash_with_each_other(goal: Goal) -> None:
    goal = goals.create_endpoint(goal, endpoint("c"))
    assert list(goals.create_endpoint(goal, endpoint("d")).endpoints) == ["e", "c", "d"]


def test_deleting_an_endpoint_leaves_its_backends(goal: Goal) -> None:
    after = goals.delete_endpoint(goal, "e")
    assert (after.endpoints, after.backends) == ({}, goal.backends)


def test_deleting_an_unknown_endpoint_changes_nothing(goal: Goal) -> None:
    assert goals.delete_endpoint(goal, "x") == goal


def test_traffic_is_replaced_as_a_whole(goal: Goal) -> None:
    goal = goals.set_traffic(goal, "e", {"b": 0.25, "a": 0.75})
    assert goal.endpoints["e"].policy.weights == (("a", 0.75), ("b", 0.25))
    goal = goals.set_traffic(goal, "e", {"b": 1})
    assert goal.endpoints["e"].policy.weights == (("b", 1),)


def test_setting_traffic_drops_the_shadows(goal: Goal) -> None:
    goal = goals.shadow_traffic(goal, "e", "b", 0.5)
    assert goals.set_traffic(goal, "e", {"a": 1}).endpoints["e"].policy.shadows == ()


def test_traffic_for_an_unknown_endpoint_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Attempted to assign traffic for an endpoint 'x' that is not registered. Registered: 'e'.",
        lambda: goals.set_traffic(goal, "x", {"a": 1}),
    )


def test_traffic_to_an_unknown_backend_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Attempted to assign traffic to a backend 'zz' that is not registered.",
        lambda: goals.set_traffic(goal, "e", {"a": 0.5, "zz": 0.5}),
    )


def test_a_negative_weight_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "Weights cannot be negative.",
        lambda: goals.set_traffic(goal, "e", {"a": 1.5, "b": -0.5}),
    )


@pytest.mark.parametrize(
    ("weights", "total"),
    [({"a": 0.5}, "0.5"), ({"a": 0.9, "b": 0.2}, "1.1"), ({}, "0"), ({"a": float("nan")}, "nan")],
    ids=str,
)
def test_weights_that_do_not_sum_to_one_are_refused(
    goal: Goal, weights: dict[str, float], total: str
) -> None:
    refuse(
        goal,
        f"Traffic dictionary weights must sum to 1, currently they sum to {total}",
        lambda: goals.set_traffic(goal, "e", weights),
    )


def test_weights_that_miss_one_by_rounding_only_are_taken(goal: Goal) -> None:
    goal = goals.set_traffic(goal, "e", {"a": 0.1 + 0.2, "b": 0.7, "idle": 1e-9})
    assert len(goal.endpoints["e"].policy.weights) == 3


def test_a_shadow_is_added_changed_and_removed(goal: Goal) -> None:
    goal = goals.shadow_traffic(goal, "e", "b", 0.5)
    goal = goals.shadow_traffic(goal, "e", "idle", 1)
    assert goal.endpoints["e"].policy.shadows == (("b", 0.5), ("idle", 1.0))
    goal = goals.shadow_traffic(goal, "e", "b", 0.1)
    goal = goals.shadow_traffic(goal, "e", "idle", 0)
    assert goal.endpoints["e"].policy == TrafficPolicy.of({"a": 1.0}, {"b": 0.1})


def test_removing_a_shadow_that_is_not_there_changes_nothing(goal: Goal) -> None:
    assert goals.shadow_traffic(goal, "e", "b", 0) == goal


def test_a_shadow_to_an_unknown_backend_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "'zz' that is not registered.",
        lambda: goals.shadow_traffic(goal, "e", "zz", 0.5),
    )


def test_a_shadow_for_an_unknown_endpoint_is_refused(goal: Goal) -> None:
    refuse(
        goal,
        "endpoint 'x' that is not registered.",
        lambda: goals.shadow_traffic(goal, "x", "b", 0.5),
    )


def test_a_goal_keeps_its_secret_and_definitions_out_of_its_text(goal: Goal) -> None:
    text = repr(goal)
    assert "secret" not in text and "definition" not in text


def test_a_backend_found_to_be_an_application_is_marked_once() -> None:
    before = goals.create_backend(empty(), backend("b"))
    after = goals.mark_asgi(before, "b")
    assert after.backends["b"].traits.is_asgi
    assert goals.mark_asgi(after, "b") is after
    assert goals.mark_asgi(after, "unknown") is after
