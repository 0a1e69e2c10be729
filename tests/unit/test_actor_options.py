"""Ray's verdict on the options of a replica."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.actor_options import (
    controller_options,
    ingress_options,
    replica_options,
    settle_actor_options,
)
from serve.app.read import FileError, read_app
from serve.app.settle import settle
from serve.ids import NAMESPACE
from serve.validate import RESERVED_OPTIONS

NODE = "ab" * 28


def test_what_tagtrail_sets_of_a_replica_is_what_users_may_not_set() -> None:
    own = replica_options("c:b#abcdef", {})
    assert own.keys() <= set(RESERVED_OPTIONS)
    settled = settle_actor_options({"num_gpus": 1})
    assert replica_options("c:b#abcdef", settled) == {**own, "num_cpus": 1, "num_gpus": 1}


def test_each_actor_comes_back_under_its_name_and_outlives_who_made_it() -> None:
    for options in (
        controller_options("n", NODE, detached=True),
        ingress_options("n", NODE),
        replica_options("n", settle_actor_options(None)),
    ):
        assert options["name"] == "n"
        assert options["namespace"] == NAMESPACE
        assert options["lifetime"] == "detached"
        assert (options["max_restarts"], options["max_task_retries"]) == (-1, -1)
    # The controller of a script ends with it, and its actors when they see that it is gone.
    assert controller_options("n", NODE, detached=False)["lifetime"] is None


def test_options_that_ray_takes_stay_as_they_are() -> None:
    options: dict[str, Any] = {
        "num_gpus": 0.5,
        "resources": {"Magic": 0.1},
        "label_selector": {"region": "north"},
        "runtime_env": {"env_vars": {"A": "b"}, "pip": ["requests"], "conda_": 1},
        "max_pending_calls": 5,
    }
    assert settle_actor_options(options) == {"num_cpus": 1, **options}
    assert settle_actor_options(None) == {"num_cpus": 1}


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ValueError, {"num_cpu": 1}, r"num_cpu .* Invalid option .*\. Did you mean 'num_cpus'\?$"),
        (ValueError, {"max_calls": 1}, "take max_calls .* The usual ones: accelerator_type, "),
        (TypeError, {"memory": None}, "memory in ray_actor_options must be a number"),
        (TypeError, {"enable_task_events": 1}, r"bool.* Mend it, or leave it out\.$"),
        (ValueError, {"num_cpus": 0.00001}, "take num_cpus .* precision"),
        (TypeError, {"runtime_env": 5}, "take runtime_env .* must be .*dict"),
        (ValueError, {"runtime_env": {"pip": ["a"], "conda": "b"}}, "'pip' field"),
        (ValueError, {"placement_group_bundle_index": 3}, "Specifying placement_group_bundle_ind"),
        (TypeError, {5: 1}, "Names in ray_actor_options must be str. Got 5."),
        (TypeError, [], "must be a dictionary"),
    ],
)
def test_what_is_refused_is_told_with_the_option_and_the_next_step(
    kind: type[Exception], options: Any, words: str
) -> None:
    with pytest.raises(kind, match=words):
        settle_actor_options(options)


def test_a_file_that_cannot_be_read_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"take runtime_env .*decode.* Mend it"):
        settle_actor_options({"runtime_env": {"pip": str(path)}})


def test_values_are_not_told_for_a_password_may_be_among_them() -> None:
    with pytest.raises(TypeError) as caught:
        settle_actor_options({"runtime_env": {"env_vars": {"PASSWORD": "secret", "A": 1}}})
    assert "secret" not in str(caught.value)


def test_a_file_of_requirements_is_read_where_the_user_is(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("requests\nclick==8.1\n")
    options = settle_actor_options({"runtime_env": {"pip": str(path), "env_vars": {"A": "b"}}})
    path.unlink()
    env = options["runtime_env"]
    assert env["pip"]["packages"] == ["requests", "click==8.1"]
    assert env.keys() == {"pip", "env_vars"}
    assert settle_actor_options(options) == options


def test_a_file_to_deploy_is_told_of_every_backend_whose_options_ray_refuses() -> None:
    wrong = "{import: 'm:F', ray_actor_options: {label_selector: {a: '!in('}}}"
    text = f"backends:\n  a: {wrong}\n  b: {{import: 'm:F'}}\n  c: {wrong}\n"
    with pytest.raises(FileError) as caught:
        settle(read_app(text, "app.yaml"))
    first, second = caught.value.problems
    assert (first.line, second.line) == (2, 4)
    assert str(first).startswith(
        "app.yaml:2:22: backends.a.ray_actor_options: Ray does not take "
        "label_selector in ray_actor_options: "
    )


def test_a_file_to_deploy_has_the_options_that_a_backend_is_created_with(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("requests\n")
    options = f"{{runtime_env: {{pip: '{path}'}}}}"
    text = f"backends: {{a: {{import: 'm:F', ray_actor_options: {options}}}}}\n"
    wanted = settle(read_app(text, "app.yaml")).wanted.backends["a"]
    assert wanted.actor_options == settle_actor_options({"runtime_env": {"pip": str(path)}})
