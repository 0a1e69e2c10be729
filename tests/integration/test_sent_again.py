"""Calls of the API that Ray sends again when the controller died before it had answered.

Where a test plays Ray's part it calls the controller's own methods, with the same arguments twice.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

import serve
from serve.config import BackendConfig
from serve.controller.goal import BackendGoal
from serve.definition import Definition, digest_of
from serve.ids import DETACHED_CONTROLLER, NAMESPACE
from tests.integration.conftest import Deploy, Instance
from tests.integration.killing import kill_controller
from tests.integration.processes import wait_until
from tests.integration.samples import QUICK


class Picky:
    """Refuses the configuration "bad"; waits first for a file where its path is given."""

    def reconfigure(self, user_config: dict[str, str]) -> None:
        if user_config.get("told"):
            Path(user_config["told"]).touch()
            wait_until(Path(user_config["go"]).exists, 60)
        if user_config["is"] == "bad":
            raise RuntimeError("picky")

    def __call__(self) -> str:
        return "up"


class Broken:
    def __init__(self) -> None:
        raise RuntimeError("broken")


def say(text: str) -> Any:
    return lambda: text


def send(method: str, *args: Any) -> Any:
    """One call, as Ray makes it; what it raises is raised as itself."""
    controller = ray.get_actor(DETACHED_CONTROLLER, NAMESPACE)
    try:
        return ray.get(getattr(controller, method).remote(*args), timeout=120)
    except RayTaskError as error:
        raise error.cause from None


def backend_of(tag: str, target: Any, change_id: str) -> tuple[BackendGoal, bytes]:
    definition = Definition(target)
    traits, packed = definition.inspect(), definition.pack()
    config = BackendConfig(**QUICK).resolve(traits)
    goal = BackendGoal(tag, digest_of(packed), traits, {"num_cpus": 0}, config, change_id=change_id)
    return goal, packed


@pytest.fixture(scope="module")
def kept(keep: Deploy) -> str:
    return keep(Picky)


@pytest.fixture
def name(kept: str) -> str:
    """A backend of Picky, and its endpoint, with the configuration "good"."""
    serve.update_backend_config(kept, {"user_config": {"is": "good"}})
    return kept


@pytest.fixture(scope="module")
def other(keep: Deploy) -> str:
    return keep(say("other"))


def test_a_bad_configuration_is_taken_back_when_the_controller_died_meanwhile(
    name: str, tmp_path: Path
) -> None:
    told, go = tmp_path / "told", tmp_path / "go"
    bad = {"is": "bad", "told": str(told), "go": str(go)}
    with ThreadPoolExecutor(1) as pool:
        change = pool.submit(serve.update_backend_config, name, {"user_config": bad})
        wait_until(told.exists, 60)
        kill_controller()
        go.touch()
        with pytest.raises(serve.BackendStartError, match="picky"):
            change.result(120)
    assert serve.get_backend_config(name).user_config == {"is": "good"}


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_change_that_failed_fails_again_and_changes_nothing(name: str, is_killed: bool) -> None:
    change_id = f"failing-{is_killed}"
    arguments = (name, BackendConfig(user_config={"is": "bad"}), change_id)
    with pytest.raises(serve.BackendStartError, match="picky") as first:
        send("update_backend_config", *arguments)
    serve.update_backend_config(name, {"user_config": {"is": "better"}})
    version = serve.connect().status().goal.backends[name].version
    if is_killed:
        kill_controller()
    with pytest.raises(serve.BackendStartError) as second:
        send("update_backend_config", *arguments)
    assert str(second.value) == str(first.value)
    assert serve.get_backend_config(name).user_config == {"is": "better"}
    assert serve.connect().status().goal.backends[name].version == version


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_older_change_that_is_sent_again_does_not_replace_a_newer_one(
    name: str, other: str, is_killed: bool
) -> None:
    ids = f"older-{is_killed}"
    older = [
        ("update_backend_config", name, BackendConfig(queue_timeout_s=7), f"{ids}-config"),
        ("set_traffic", name, {other: 1.0}, f"{ids}-traffic"),
        ("shadow_traffic", name, other, 0.5, f"{ids}-shadow"),
    ]
    for call in older:
        send(*call)
    serve.update_backend_config(name, {"queue_timeout_s": 8})
    serve.set_traffic(name, {name: 1.0})
    if is_killed:
        kill_controller()
    for call in older:
        send(*call)
    assert serve.get_backend_config(name).queue_timeout_s == 8
    endpoint = serve.list_endpoints()[name]
    assert (endpoint["traffic"], endpoint["shadows"]) == ({name: 1.0}, {})


def test_a_create_that_failed_is_not_tried_again(instance: Instance) -> None:
    before = serve.list_backends()
    backend, definition = backend_of("broken", Broken, "broken-create")
    with pytest.raises(serve.BackendStartError, match="broken"):
        send("create_backend", backend, definition)
    kill_controller()
    with pytest.raises(serve.BackendStartError, match="broken"):
        send("create_backend", backend, definition)
    # Another call may take the tag; the one that failed says so all the same.
    serve.create_backend("broken", say("whole"), ray_actor_options={"num_cpus": 0}, config=QUICK)
    with pytest.raises(serve.BackendStartError, match="broken"):
        send("create_backend", backend, definition)
    assert serve.list_backends().keys() - before.keys() == {"broken"}


def test_a_create_whose_backend_was_deleted_meanwhile_does_not_make_it_anew(
    instance: Instance,
) -> None:
    backend, definition = backend_of("once", say("once"), "once-create")
    send("create_backend", backend, definition)
    serve.delete_backend("once", force=True)
    send("create_backend", backend, definition)
    assert "once" not in serve.list_backends()


def test_a_delete_that_is_sent_again_leaves_what_was_made_meanwhile(instance: Instance) -> None:
    def make() -> None:
        serve.create_backend("anew", say("anew"), ray_actor_options={"num_cpus": 0}, config=QUICK)
        serve.create_endpoint("anew", backend="anew", route="/anew")

    def send_deletes() -> None:
        send("delete_endpoint", "anew", "delete-endpoint")
        send("delete_backend", "anew", True, "delete-backend")

    make()
    send_deletes()
    assert "anew" not in {**serve.list_backends(), **serve.list_endpoints()}
    make()
    send_deletes()
    assert "anew" in serve.list_backends()
    assert "anew" in serve.list_endpoints()
    assert instance.http.get("/anew").text == "anew"
