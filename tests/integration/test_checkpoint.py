"""What the controller stores in Ray's internal KV, and what of it leaves the controller."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ray import cloudpickle
from ray.experimental.internal_kv import (
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

import serve
from serve.client import Client
from serve.ids import DETACHED_CONTROLLER, NAMESPACE
from tests.integration.conftest import Instance
from tests.integration.killing import kill_controller
from tests.integration.samples import QUICK

MODEL_BYTES = 4_000_000
SLIM_BYTES = 20_000
GOAL = f"goal:{DETACHED_CONTROLLER}"


class Model:
    """Has weights of several MB, which travel with its definition."""

    def __init__(self, weights: bytes) -> None:
        self._size = len(weights)

    def __call__(self) -> int:
        return self._size


def stored(prefix: str = "") -> dict[str, bytes]:
    """Definitions that are stored, by key."""
    keys = _internal_kv_list(f"definition:{DETACHED_CONTROLLER}:{prefix}", namespace=NAMESPACE)
    return {key.decode(): _internal_kv_get(key, namespace=NAMESPACE) for key in keys}


def goal_bytes() -> bytes:
    value: bytes = _internal_kv_get(GOAL, namespace=NAMESPACE)
    return value


def client() -> Client:
    return serve.connect()


def create(tag: str, weights: bytes, **config: Any) -> None:
    serve.create_backend(
        tag, Model, weights, ray_actor_options={"num_cpus": 0}, config={**QUICK, **config}
    )


def test_a_change_of_traffic_writes_no_definition_and_a_status_holds_none(
    instance: Instance,
) -> None:
    create("big", os.urandom(MODEL_BYTES))
    serve.create_endpoint("big", backend="big")
    ((key, definition),) = stored().items()
    assert len(definition) > MODEL_BYTES
    assert len(goal_bytes()) < SLIM_BYTES
    before = goal_bytes()
    _internal_kv_put(key, b"untouched", namespace=NAMESPACE)
    try:
        serve.set_traffic("big", {"big": 1.0})
        serve.shadow_traffic("big", "big", 0.5)
        assert goal_bytes() != before
        assert stored() == {key: b"untouched"}
    finally:
        _internal_kv_put(key, definition, namespace=NAMESPACE)

    status = client().status()
    assert len(cloudpickle.dumps(status)) < SLIM_BYTES
    assert status.goal.secret == b""  # nor the secret
    assert status.goal.tracing == {}
    stored_goal = cloudpickle.loads(goal_bytes().partition(b"\n")[2])
    assert len(stored_goal.secret) == 32
    assert stored_goal.secret not in cloudpickle.dumps(status)


def test_backends_of_one_definition_share_it_until_the_last_is_deleted(instance: Instance) -> None:
    weights = os.urandom(MODEL_BYTES)
    create("one", weights)
    create("two", weights)
    create("other", b"small")
    assert len(stored()) == 2
    serve.delete_backend("one", force=True)
    assert len(stored()) == 2
    serve.delete_backend("two", force=True)
    assert [len(definition) < MODEL_BYTES for definition in stored().values()] == [True]
    serve.delete_backend("other", force=True)
    assert stored() == {}


def test_a_definition_of_a_change_that_was_taken_back_is_not_kept(instance: Instance) -> None:
    with pytest.raises(serve.BackendStartError):
        serve.create_backend("bad", Model, ray_actor_options={"num_cpus": 0})  # no weights
    assert stored() == {}


def test_a_controller_that_comes_back_starts_replicas_with_the_stored_definition(
    instance: Instance,
) -> None:
    create("back", b"12345")
    serve.create_endpoint("back", backend="back")
    stray = f"definition:{DETACHED_CONTROLLER}:stray"
    _internal_kv_put(stray, b"of a controller that died between two writes", namespace=NAMESPACE)
    kill_controller()
    serve.update_backend_config("back", {"num_replicas": 2})
    answers = [serve.get_handle("back").call().result(60) for _ in range(4)]
    assert answers == [5] * 4
    assert stored("stray") == {}


def test_replicas_that_come_and_go_leave_no_class_of_their_own_in_ray(instance: Instance) -> None:
    def exported() -> int:
        return len(_internal_kv_list("ActorClass:", namespace="fun"))

    create("first", b"1")
    before = exported()
    assert before > 0
    for tag in ("second", "third"):
        create(tag, b"2")
        serve.delete_backend(tag, force=True)
    assert exported() == before
