"""Where an instance is not as a file says, object by object. Pure.

What the file leaves out has its default, so that the same file makes the same instance, whatever
was there. Values are compared as they take effect: a field that is set to its default, or to what
the instance has anyway, is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from observability.instrument.logging_config import LoggingConfig
from serve.app.records import PresentBackend, WantedBackend, WantedEndpoint
from serve.config import BackendConfig, Traits
from serve.controller.goal import EndpointGoal
from serve.outline import are_same, outline

_CONCURRENCY = "max_concurrent_queries"
_LOGGING = "logging_config"
_USERS_OWN = "user_config"


def fixed_differences(wanted: WantedBackend, present: PresentBackend) -> Iterator[str]:
    """What can't be changed while a backend runs: its code, arguments and Ray options."""
    source, here = wanted.source, present.outline
    if here is None:
        yield f"import: a script's own code -> {source.path}"
    elif here.path != source.path:
        yield f"import: {here.path} -> {source.path}"
    else:  # values are not shown: a password may be among them
        described = outline(source.path, source.init_args, source.init_kwargs)
        if not are_same(described.init_args, here.init_args):
            yield "init_args"
        if not are_same(described.init_kwargs, here.init_kwargs):
            yield "init_kwargs"
    options, old = wanted.actor_options, present.actor_options
    for name in sorted(options.keys() | old.keys()):
        if options.get(name) != old.get(name):
            yield f"ray_actor_options.{name}"


def config_change(
    wanted: BackendConfig, present: BackendConfig, traits: Traits, instance: LoggingConfig
) -> dict[str, Any]:
    """The fields that `update_backend_config` must be given.

    Args:
        wanted: of the file.
        present: of the instance.
        traits: of the backend.
        instance: the instance's own logging.
    """
    wanted = wanted.resolve(traits)
    change: dict[str, Any] = {}
    for name in BackendConfig.model_fields:
        value, here = getattr(wanted, name), getattr(present, name)
        is_same = same(value, here) if name == _USERS_OWN else value == here
        if name not in (_CONCURRENCY, _LOGGING) and not is_same:
            change[name] = value
    if logging := _logging_change(wanted.logging_config, present.logging_config, instance):
        change[_LOGGING] = logging if wanted.logging_config is not None else None
    # It follows from other fields while nobody sets it.
    after = present.merge(BackendConfig(**change)).resolve(traits)
    if after.max_concurrent_queries != wanted.max_concurrent_queries:
        change[_CONCURRENCY] = wanted.max_concurrent_queries
    return change


def config_differences(
    change: Mapping[str, Any], present: BackendConfig, instance: LoggingConfig
) -> Iterator[str]:
    """A change of the configuration in words."""
    for name, value in change.items():
        if name == _LOGGING:
            old = _effective(present.logging_config, instance)
            new = instance.model_dump() if value is None else value
            for key in new:
                if new[key] != getattr(old, key):
                    yield _tell(f"config.{name}.{key}", getattr(old, key), new[key])
        else:
            shown = f"config.{name}"
            yield shown if name == _USERS_OWN else _tell(shown, getattr(present, name), value)


def endpoint_differences(wanted: WantedEndpoint, present: EndpointGoal) -> Iterator[str]:
    """What can't be changed while an endpoint is there: its route and methods."""
    if wanted.route != present.route:
        yield _tell("route", present.route, wanted.route)
    methods = _default_methods(present) if wanted.methods is None else wanted.methods
    if set(methods) != set(present.methods):
        yield _tell("methods", _tell_methods(present.methods), _tell_methods(methods))


def policy_differences(wanted: WantedEndpoint, present: EndpointGoal) -> Iterator[str]:
    """What `set_traffic` and `shadow_traffic` change."""
    for key, new, old in (
        ("traffic", wanted.policy.weights, present.policy.weights),
        ("shadow", wanted.policy.shadows, present.policy.shadows),
    ):
        if new != old:
            yield f"{key}: {_tell_shares(old)} -> {_tell_shares(new)}"


def same(one: object, other: object) -> bool:
    """Whether two pieces of plain data are equal, 1, 1.0 and true being three values.

    What is no plain data, which a script may have given, is equal to nothing.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return isinstance(one, (str, int, float, bool, type(None))) and one == other


def _logging_change(
    wanted: LoggingConfig | None, present: LoggingConfig | None, instance: LoggingConfig
) -> dict[str, Any]:
    new, old = _effective(wanted, instance), _effective(present, instance)
    return {
        name: getattr(new, name)
        for name in LoggingConfig.model_fields
        if getattr(new, name) != getattr(old, name)
    }


def _effective(config: LoggingConfig | None, instance: LoggingConfig) -> LoggingConfig:
    return (config or LoggingConfig()).over(instance)


def _default_methods(present: EndpointGoal) -> tuple[str, ...]:
    """Of what the endpoint was made for; without a route nobody asks for a method."""
    if present.route is None and not present.methods:
        return ()
    return () if present.is_mount else ("GET",)


def _tell_methods(methods: tuple[str, ...]) -> str:
    return ", ".join(methods) or "all"


def _tell(key: str, old: object, new: object) -> str:
    """Both values, unless one of them is long."""
    shown, given = _tell_value(old), _tell_value(new)
    return key if shown is None or given is None else f"{key}: {shown} -> {given}"


def _tell_value(value: object) -> str | None:
    if isinstance(value, (dict, list, tuple)):
        return None
    return "none" if value is None else str(value)


def _tell_shares(shares: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{tag} {share:g}" for tag, share in shares) or "none"
