"""Calls that Ray sends again: what they have done is known, and what failed was taken back."""

from __future__ import annotations

from serve.config import BackendConfig, HTTPOptions, Traits
from serve.controller import goal as goals
from serve.controller import ledger
from serve.controller.goal import BackendGoal, EndpointGoal, Goal, Outcome
from serve.traffic import TrafficPolicy

EMPTY = Goal(HTTPOptions(), "head", b"secret")


def backend(tag: str, change_id: str) -> BackendGoal:
    traits = Traits("handler")
    return BackendGoal(tag, "", traits, {}, BackendConfig().resolve(traits), change_id=change_id)


def created(goal: Goal = EMPTY, change_id: str = "create") -> Goal:
    return ledger.begun(goals.create_backend(goal, backend("a", change_id)), change_id, "a")


def updated(goal: Goal, change_id: str, replicas: int) -> Goal:
    changed = goals.update_backend(goal, "a", BackendConfig(num_replicas=replicas))
    return ledger.begun(changed, change_id, "a", goal.backends["a"])


def replicas(goal: Goal) -> int:
    return goal.backends["a"].config.num_replicas


def test_a_failed_create_is_taken_back_and_what_failed_is_known() -> None:
    after = ledger.failed(created(), "create", "no resources")
    assert after.backends == {}
    change = after.changes["create"]
    assert (change.outcome, change.error) == (Outcome.FAILED, "no resources")


def test_a_failed_update_gives_the_configuration_before_a_newer_version() -> None:
    changed = updated(created(), "update", 5)
    after = ledger.failed(changed, "update", "no")
    assert replicas(after) == 1
    assert after.backends["a"].version == changed.backends["a"].version + 1


def test_a_failed_update_that_others_built_on_is_not_taken_back() -> None:
    changed = updated(updated(created(), "first", 5), "second", 6)
    after = ledger.failed(changed, "first", "no")
    assert after.backends == changed.backends
    assert after.changes["first"].outcome is Outcome.FAILED


def test_a_backend_that_another_call_made_anew_is_left_alone() -> None:
    for change in (created(), updated(created(), "update", 5)):
        deleted = goals.delete_backend(change, "a")
        anew = created(deleted, "another")
        change_id = list(change.changes)[-1]
        assert not ledger.is_still(anew, change.changes[change_id])
        assert ledger.failed(anew, change_id, "no").backends == anew.backends


def test_a_failed_create_stays_when_an_endpoint_uses_it_already() -> None:
    endpoint = EndpointGoal("e", None, (), False, TrafficPolicy.of({"a": 1.0}), "endpoint")
    goal = goals.create_endpoint(created(), endpoint)
    assert "a" in ledger.failed(goal, "create", "no").backends


def test_the_backend_before_a_change_is_kept_only_while_it_may_fail() -> None:
    changed = updated(created(), "update", 5)
    assert changed.changes["update"].before is not None
    assert ledger.done(changed, "update").changes["update"].before is None
    assert ledger.failed(changed, "update", "no").changes["update"].before is None


def test_only_the_latest_changes_are_kept() -> None:
    goal = EMPTY
    for number in range(3 * ledger.KEPT):
        goal = ledger.done(goal, str(number))
    assert list(goal.changes) == [str(n) for n in range(2 * ledger.KEPT, 3 * ledger.KEPT)]
