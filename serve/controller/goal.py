"""What the user asked for, and how calls change it. Pure: takes a goal, gives the next, or raises.

Every check that needs to know the instance's state is here, so that a wrong call changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from observability.instrument.logging_config import LoggingConfig
from serve.config import BackendConfig, HTTPOptions, Traits
from serve.outline import Outline
from serve.traffic import TrafficPolicy


@dataclass(frozen=True, slots=True)
class BackendGoal:
    """One backend as it should be.

    Attributes:
        tag: its name.
        digest: names its definition: the callable and its constructor's arguments, pickled. The
            checkpoint has it.
        traits: what kind of callable it is.
        actor_options: Ray options of a replica's actor (`num_cpus`, `resources`, `runtime_env`...).
        config: its configuration, defaults filled in.
        version: raised at each change of the configuration.
        change_id: the call that made it; the same call sent again is not an error.
        outline: what may be told of the definition; None for a script's own code.
    """

    tag: str
    digest: str
    traits: Traits
    actor_options: dict[str, Any]
    config: BackendConfig
    version: int = 1
    change_id: str = ""
    outline: Outline | None = None


@dataclass(frozen=True, slots=True)
class EndpointGoal:
    """One endpoint as it should be. No `methods`: all; `is_mount`: all below the route too."""

    name: str
    route: str | None
    methods: tuple[str, ...]
    is_mount: bool
    policy: TrafficPolicy
    change_id: str = ""

    def describe(self) -> dict[str, Any]:
        """As the API tells of it: `{"route", "methods", "traffic", "shadows"}`."""
        return {
            "route": self.route,
            "methods": list(self.methods),
            "traffic": dict(self.policy.weights),
            "shadows": dict(self.policy.shadows),
        }


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint as a caller asks for it; what it leaves open, its backend decides.

    Attributes:
        name: its name.
        route: pattern; None: for handles only.
        methods: HTTP methods. None: all for an ASGI application, GET for others.
        backend_tag: gets all its traffic.
        change_id: the call's.
    """

    name: str
    route: str | None
    methods: tuple[str, ...] | None
    backend_tag: str
    change_id: str = ""


class Outcome(str, Enum):
    """How far a change is."""

    BEGUN = "begun"
    """The goal holds it; whether the world can follow is not known yet."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Change:
    """One call that changed the goal; see `ledger`.

    Attributes:
        change_id: the call's.
        outcome: how far it is.
        tag: the backend that it changes while it has begun.
        made_by: change_id of that backend: another one may have its tag later.
        version: the backend's with the change.
        before: the backend without it; None: the call creates it.
        error: why it failed.
    """

    change_id: str
    outcome: Outcome
    tag: str = ""
    made_by: str = ""
    version: int = 0
    before: BackendGoal | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """An instance's goal. Dictionaries keep the order of creation and never change in place.

    Attributes:
        preload: modules that replicas load before the user's code: those who use it name them.
    """

    http: HTTPOptions
    head_node_id: str
    secret: bytes = field(repr=False)
    is_detached: bool = False
    backends: dict[str, BackendGoal] = field(default_factory=dict)
    endpoints: dict[str, EndpointGoal] = field(default_factory=dict)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    tracing: dict[str, str] = field(default_factory=dict, repr=False)
    changes: dict[str, Change] = field(default_factory=dict, repr=False)
    preload: tuple[str, ...] = ()


def without_secrets(goal: Goal) -> Goal:
    """The goal as it may leave the controller: nobody opens a replica with it, or sends traces.

    An instance's middlewares stay behind, too: they are code, and nobody asks for them.
    """
    http = goal.http.model_copy(update={"middlewares": []})
    return replace(goal, http=http, secret=b"", tracing={}, changes={})


def find_backend(goal: Goal, tag: str) -> BackendGoal:
    """One of the goal's backends. ValueError when it is unknown."""
    backend = goal.backends.get(tag)
    if backend is None:
        raise ValueError(
            f"Backend {tag} is not registered. Registered: {_names(goal.backends)}. "
            f"Create it with serve.create_backend({tag!r}, ...)."
        )
    return backend


def create_backend(goal: Goal, backend: BackendGoal) -> Goal:
    """The goal with a new backend. ValueError when the tag is taken."""
    existing = goal.backends.get(backend.tag)
    if existing is not None:
        if existing.change_id == backend.change_id:
            return goal
        raise ValueError(
            f"Cannot create backend. Backend '{backend.tag}' is already registered. Choose another "
            f"tag, change it with serve.update_backend_config('{backend.tag}', ...) or remove it "
            f"first with serve.delete_backend('{backend.tag}')."
        )
    return replace(goal, backends={**goal.backends, backend.tag: backend})


def mark_asgi(goal: Goal, tag: str) -> Goal:
    """The goal with a backend known to be an ASGI application: a replica has resolved its path."""
    backend = goal.backends.get(tag)
    if backend is None or backend.traits.is_asgi:
        return goal
    marked = replace(backend, traits=replace(backend.traits, is_asgi=True))
    return replace(goal, backends={**goal.backends, tag: marked})


def update_backend(goal: Goal, tag: str, change: BackendConfig) -> Goal:
    """The goal with a backend's fields changed. ValueError: unknown backend or a bad mix."""
    backend = find_backend(goal, tag)
    config = backend.config.merge(change).resolve(backend.traits)
    check_config(tag, config, backend.traits)
    updated = replace(backend, config=config, version=backend.version + 1)
    return replace(goal, backends={**goal.backends, tag: updated})


def delete_backend(goal: Goal, tag: str) -> Goal:
    """The goal without the backend, known or not. ValueError while an endpoint uses it."""
    for endpoint in goal.endpoints.values():
        if tag in endpoint.policy.backend_tags:
            raise ValueError(
                f"Backend '{tag}' is used by endpoint '{endpoint.name}' and cannot be deleted. "
                "Please remove the backend from all endpoints and try again. (serve.set_traffic "
                "replaces an endpoint's backends, serve.shadow_traffic with proportion 0 ends a "
                "shadow.)"
            )
    return replace(goal, backends={k: v for k, v in goal.backends.items() if k != tag})


def create_endpoint(goal: Goal, new: NewEndpoint) -> Goal:
    """The goal with a new endpoint. ValueError: unknown backend, name or route taken."""
    _check_backends(goal, [new.backend_tag])
    endpoint = _fit_endpoint(new, goal.backends[new.backend_tag].traits)
    existing = goal.endpoints.get(endpoint.name)
    if existing is not None:
        if existing.change_id == endpoint.change_id:
            return goal
        _refuse_same_name(existing, endpoint)
    for other in goal.endpoints.values():
        if endpoint.route is not None and other.route == endpoint.route:
            raise ValueError(
                f"Cannot create endpoint. Route '{endpoint.route}' is already registered. It "
                f"belongs to endpoint '{other.name}': choose another route, or change that "
                f"endpoint's backend with serve.set_traffic('{other.name}', ...)."
            )
    return replace(goal, endpoints={**goal.endpoints, endpoint.name: endpoint})


def _fit_endpoint(new: NewEndpoint, traits: Traits) -> EndpointGoal:
    """An endpoint for that kind of backend: a route of an ASGI application is a prefix."""
    methods = new.methods
    if methods is None:
        methods = () if traits.is_asgi else ("GET",)
    is_mount = traits.is_asgi and new.route is not None
    policy = TrafficPolicy.of({new.backend_tag: 1.0})
    return EndpointGoal(new.name, new.route, methods, is_mount, policy, new.change_id)


def delete_endpoint(goal: Goal, name: str) -> Goal:
    """The goal without the endpoint; an unknown name changes nothing."""
    return replace(goal, endpoints={k: v for k, v in goal.endpoints.items() if k != name})


def set_traffic(goal: Goal, name: str, weights: Mapping[str, float]) -> Goal:
    """The goal with the endpoint's whole policy replaced, shadows included (as in 1.3.0)."""
    endpoint = _endpoint(goal, name, "Attempted to assign traffic for")
    _check_backends(goal, weights)
    check_weights(weights)
    return _with_policy(goal, endpoint, TrafficPolicy.of(weights))


def shadow_traffic(goal: Goal, name: str, tag: str, proportion: float) -> Goal:
    """The goal with a share of the endpoint's requests copied to a backend; 0 ends it."""
    endpoint = _endpoint(goal, name, "Attempted to shadow traffic for")
    _check_backends(goal, [tag])
    shadows = dict(endpoint.policy.shadows)
    shadows.pop(tag, None)
    if proportion > 0:
        shadows[tag] = float(proportion)
    return _with_policy(goal, endpoint, TrafficPolicy.of(dict(endpoint.policy.weights), shadows))


def check_weights(weights: Mapping[str, float]) -> None:
    """ValueError unless the weights are at least 0 and sum to 1 within 1e-8."""
    for tag, weight in weights.items():
        if weight < 0:
            raise ValueError(f"Weights cannot be negative. Backend '{tag}' was given {weight}.")
    total = sum(weights.values())
    if not abs(total - 1) <= 1e-8:  # refuses NaN too
        raise ValueError(f"Traffic dictionary weights must sum to 1, currently they sum to {total}")


def check_config(tag: str, config: BackendConfig, traits: Traits) -> None:
    """ValueError when the configuration does not fit what the backend is."""
    if (
        config.max_batch_size is not None
        and config.max_batch_size > 1
        and not traits.accepts_batches
    ):
        raise ValueError(
            f"max_batch_size is set to {config.max_batch_size} for backend '{tag}', but "
            f"'{traits.name}' does not accept batches. Mark it with @serve.accept_batch (it then "
            "gets and returns a list), or leave max_batch_size out."
        )
    if config.user_config is not None and traits.is_function:
        raise ValueError(
            f"user_config is set for backend '{tag}', but '{traits.name}' is a function and has no "
            "reconfigure method. Use a class with 'def reconfigure(self, user_config)'."
        )


def _with_policy(goal: Goal, endpoint: EndpointGoal, policy: TrafficPolicy) -> Goal:
    changed = replace(endpoint, policy=policy)
    return replace(goal, endpoints={**goal.endpoints, endpoint.name: changed})


def _endpoint(goal: Goal, name: str, attempt: str) -> EndpointGoal:
    endpoint = goal.endpoints.get(name)
    if endpoint is None:
        raise ValueError(
            f"{attempt} an endpoint '{name}' that is not registered. Registered: "
            f"{_names(goal.endpoints)}. Create it with serve.create_endpoint({name!r}, "
            "backend=...)."
        )
    return endpoint


def _check_backends(goal: Goal, tags: Iterable[str]) -> None:
    for tag in tags:
        if tag not in goal.backends:
            raise ValueError(
                f"Attempted to assign traffic to a backend '{tag}' that is not registered. "
                f"Registered: {_names(goal.backends)}. Create it with "
                f"serve.create_backend({tag!r}, ...)."
            )


def _refuse_same_name(existing: EndpointGoal, endpoint: EndpointGoal) -> None:
    if (existing.route, existing.methods) == (endpoint.route, endpoint.methods):
        raise ValueError(
            f"Route '{endpoint.route}' is already registered to endpoint '{endpoint.name}' with "
            f"methods '{list(endpoint.methods)}'.  To set the backend for this endpoint, please "
            "use serve.set_traffic()."
        )
    raise ValueError(
        f"Cannot create endpoint. Endpoint '{endpoint.name}' is already registered. Choose another "
        f"name, or remove it first with serve.delete_endpoint({endpoint.name!r})."
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
