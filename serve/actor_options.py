"""Ray's options of an instance's actors: what Tagtrail sets, and what users may for a replica.

Ray's own verdict on the users' is asked for before anything is changed. Else Ray gives it where the
controller starts a replica, and nobody is there to hear it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve.ids import NAMESPACE
from serve.validate import check_actor_options

CONCURRENCY = 100_000
"""Ray's own limit of calls is out of the way: the replica's gate holds the limit the user set."""

_INGRESS_CONCURRENCY = 1000

_COMES_BACK = {"max_restarts": -1, "max_task_retries": -1}

_USUAL = (
    "accelerator_type", "enable_task_events", "label_selector", "memory", "num_cpus", "num_gpus",
    "resources", "runtime_env", "scheduling_strategy",
)  # fmt: skip
"""What may be meant by an unknown name."""

_FILES = ("pip", "uv", "conda")
"""Parts of a runtime environment that may be the path of a file."""


def controller_options(name: str, node_id: str, *, detached: bool) -> dict[str, Any]:
    """Of the controller, which is on the node that starts it while there is that node."""
    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached" if detached else None,
        "num_cpus": 0,
        "memory": 1,  # bytes: an actor that asks for nothing is put anywhere, affinity or not
        "max_concurrency": CONCURRENCY,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True),
        **_COMES_BACK,
    }


def ingress_options(name: str, node_id: str) -> dict[str, Any]:
    """Of a node's ingress, which outlives its controller's restarts; see `serve.owner`."""
    return {
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_concurrency": _INGRESS_CONCURRENCY,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        **_COMES_BACK,
    }


def replica_options(name: str, settled: Mapping[str, Any]) -> dict[str, Any]:
    """Of a replica: the user's, and beside them what users may not set.

    Args:
        name: of its actor.
        settled: the user's, as `settle_actor_options` gives them.
    """
    return {
        **settled,
        "name": name,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_concurrency": CONCURRENCY,
        **_COMES_BACK,
    }


class _Probe:
    """An actor that is never started."""


def settle_actor_options(options: object) -> dict[str, Any]:
    """Options that Ray takes for a replica, `num_cpus` filled in.

    A file that the runtime environment names, of requirements for instance, is read here: the
    controller is on a machine that need not have it.

    Args:
        options: as the user gave them; None: the defaults.

    Raises:
        TypeError: no dictionary, or a value of the wrong type.
        ValueError: an unknown option, one that is Tagtrail's own, or a bad value.
    """
    settled = check_actor_options(options)
    for name, value in settled.items():
        _ask_ray(name, value)
    if isinstance(settled.get("runtime_env"), Mapping):
        settled["runtime_env"] = _read_files(settled["runtime_env"])
    return settled


def _ask_ray(name: str, value: Any) -> None:
    try:
        ray.remote(_Probe).options(**{name: value})
    except (TypeError, ValueError, OSError) as error:  # OSError: of a file that it names
        # Without what follows, a list of all that Ray has or of what was given: a password may be
        # in the environment's variables, so the value is not told either.
        said = str(error).splitlines()[0].partition(" Valid ones are ")[0]
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"Ray does not take {name} in ray_actor_options: {said.rstrip('.')}. {_advise(name)}"
        ) from None


def _advise(name: str) -> str:
    if name in _USUAL:
        return "Mend it, or leave it out."
    near = difflib.get_close_matches(name, _USUAL, 1)
    return f"Did you mean '{near[0]}'?" if near else f"The usual ones: {', '.join(_USUAL)}."


def _read_files(env: Mapping[str, Any]) -> dict[str, Any]:
    read = ray.runtime_env.RuntimeEnv(**env)
    return {
        name: read[name] if name in _FILES and isinstance(value, str) else value
        for name, value in env.items()
    }
