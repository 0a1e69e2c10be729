"""Checks of what users pass that need not know the instance. Pure: return it clean, or raise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NUM_CPUS = 1
"""CPUs that Ray sets aside for a replica whose options do not say."""

RESERVED_OPTIONS = (
    "lifetime", "name", "namespace", "max_restarts", "max_task_retries", "max_concurrency",
    "placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks",
    "get_if_exists",
)  # fmt: skip
_NUMBERS = ("num_cpus", "num_gpus", "memory", "object_store_memory")
_OWN_RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
_STRATEGIES = ("DEFAULT", "SPREAD")
_URI = re.compile(r"[a-z0-9]+://.+", re.I)


def check_name(name: object, what: str) -> str:
    """A backend tag or endpoint name. TypeError: no text. ValueError: empty or unprintable."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str. Got {type(name).__name__}: {name!r}.")
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"{what} must be printable text without spaces at its ends: it stands in headers and "
            f"log lines. Got {name!r}."
        )
    return name


def check_actor_options(options: object) -> dict[str, Any]:
    """Ray options for a replica's actor, `num_cpus` filled in: what Ray would not refuse, or late.

    `serve.actor_options` asks Ray itself about the rest.

    Raises:
        TypeError: not a dictionary, or a resource that is no number.
        ValueError: a key that is Tagtrail's own, or a bad value.
    """
    if options is None:
        return {"num_cpus": NUM_CPUS}
    if not isinstance(options, dict):
        raise TypeError(
            f"ray_actor_options must be a dictionary. Got {type(options).__name__}: {options!r}. "
            "Example: "
            "ray_actor_options={'num_cpus': 2}."
        )
    _check_names(options)
    for key in _NUMBERS:
        if key in options:
            _check_amount(f"{key} in ray_actor_options", options[key])
    resources = options.get("resources", {})
    if not isinstance(resources, dict):
        raise TypeError(
            f"resources in ray_actor_options must be a dictionary. Got {type(resources).__name__}: "
            f"{resources!r}. Example: {{'resources': {{'Magic': 1}}}}."
        )
    check_resources(resources)
    _check_gpus(options.get("num_gpus", 0))
    _check_strategy(options.get("scheduling_strategy"))
    check_runtime_env(options.get("runtime_env"))
    return {"num_cpus": NUM_CPUS, **options}


def check_resources(resources: Mapping[Any, Any]) -> None:
    """Resources of the user's own naming: text -> amount.

    Raises:
        TypeError: a name that is no text, or an amount that is no number.
        ValueError: a name that is Ray's own, or a negative amount.
    """
    for name, amount in resources.items():
        if not isinstance(name, str):
            raise TypeError(f"Names of resources in ray_actor_options must be str. Got {name!r}.")
        if name in _OWN_RESOURCES:
            raise ValueError(
                f"{name} is not a resource of your own naming. Use '{_OWN_RESOURCES[name]}' for it."
            )
        _check_amount(f"resource '{name}' in ray_actor_options", amount)


def check_runtime_env(env: object) -> None:
    """ValueError when a replica's runtime environment has a folder in place of a URI."""
    # Ray takes a folder for a whole job only. For an actor it would not start its process, and the
    # backend would give up after `placement_timeout_s` for want of resources.
    if not isinstance(env, Mapping):  # None; of anything else, Ray says that it is wrong
        return
    modules = env.get("py_modules")
    places = [("working_dir", env.get("working_dir"))]
    places += [("py_modules", each) for each in (modules if isinstance(modules, list) else ())]
    for key, value in places:
        if isinstance(value, str) and not _URI.fullmatch(value):
            raise ValueError(
                f"{key} of a replica must be a URI of a zip file, e.g. 'https://...zip' or "
                f"'s3://...zip'; Ray takes no folder here. Got {value!r}. For a folder that "
                "every node has, use env_vars: {PYTHONPATH: " + value + "}."
            )


def check_methods(methods: object) -> tuple[str, ...] | None:
    """Upper-case HTTP methods. None: those that suit the backend."""
    if methods is None:
        return None
    if not isinstance(methods, list):
        raise TypeError(
            f"methods must be a list of str. Got {type(methods).__name__}: {methods!r}. Example: "
            "methods=['GET', 'POST']."
        )
    for method in methods:
        if not isinstance(method, str) or not method.isascii() or not method.isalpha():
            raise TypeError(
                f"methods must be a list of HTTP methods as str, but it contained {method!r}. "
                "Example: methods=['GET', 'POST']."
            )
    if not methods:
        raise ValueError(
            "methods must name at least one HTTP method. Got []. Leave it out for GET, or for all "
            "methods of an ASGI application."
        )
    return tuple(dict.fromkeys(method.upper() for method in methods))


def check_weights_type(weights: object) -> dict[str, float]:
    """A traffic dictionary. TypeError names what is not backend tag -> number."""
    if not isinstance(weights, Mapping):
        raise TypeError(
            "Traffic policy must be a dictionary of backend tag to weight. Got "
            f"{type(weights).__name__}: {weights!r}. Example: {{'v1': 0.9, 'v2': 0.1}}."
        )
    for tag, weight in weights.items():
        if not isinstance(tag, str) or not _is_number(weight):
            raise TypeError(
                f"Traffic policy must be a dictionary of backend tag to weight. It has {tag!r}: "
                f"{weight!r}. "
                "Example: {'v1': 0.9, 'v2': 0.1}."
            )
    return dict(weights)


def check_proportion(proportion: object) -> float:
    """A shadow's share. TypeError unless it is a number from 0 to 1."""
    if not _is_number(proportion) or not 0 <= proportion <= 1:  # type: ignore[operator]
        raise TypeError(f"proportion must be a float from 0 to 1. Got {proportion!r}.")
    return float(proportion)  # type: ignore[arg-type]


def _check_names(options: Mapping[Any, Any]) -> None:
    for key in options:
        if not isinstance(key, str):
            raise TypeError(f"Names in ray_actor_options must be str. Got {key!r}.")
        if key in RESERVED_OPTIONS:
            raise ValueError(
                f"Specifying {key} in ray_actor_options is not allowed: Tagtrail sets it. Remove "
                "it."
            )


def _check_gpus(amount: float) -> None:
    if amount > 1 and amount != int(amount):
        raise ValueError(
            f"num_gpus in ray_actor_options must be a whole number, or a share of one GPU below 1. "
            f"Got {amount!r}."
        )


def _check_strategy(strategy: object) -> None:
    if isinstance(strategy, str) and strategy not in _STRATEGIES:
        raise ValueError(
            f"scheduling_strategy in ray_actor_options must be one of {', '.join(_STRATEGIES)} or "
            f"an object of ray.util.scheduling_strategies. Got {strategy!r}."
        )


def _check_amount(what: str, amount: object) -> None:
    if not _is_number(amount):
        raise TypeError(f"{what} must be a number. Got {type(amount).__name__}: {amount!r}.")
    if not amount >= 0:  # type: ignore[operator]
        raise ValueError(f"{what} must be >= 0. Got {amount!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
