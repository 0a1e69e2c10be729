"""The file of `tagtrail deploy`: which keys it has, and what each may hold. Pure.

Names are the API's own. What needs two places to be looked at together is in `check_whole`, which
takes the raw data: it tells what is wrong also where another part of the file is wrong.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serve.app.records import Problem, Source, Wanted, WantedBackend, WantedEndpoint
from serve.config import BackendConfig
from serve.controller.goal import check_weights
from serve.routes import check_route
from serve.traffic import TrafficPolicy
from serve.validate import (
    NUM_CPUS,
    check_actor_options,
    check_methods,
    check_name,
    check_resources,
    check_runtime_env,
)

EXTENSION = "x-"
"""A key at the top that begins with this is the user's own: a place for YAML's anchors."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*[.:][^\W\d]\w*")


def _check_import(path: str) -> str:
    if not _IMPORT_PATH.fullmatch(path):
        raise ValueError(
            f"Import path {path!r} is not one. Expected 'package.module:Name', the name being a "
            "function, a class or an ASGI application."
        )
    return path.replace(":", ".")


def _check_tag(tag: str) -> str:
    return check_name(tag, "A backend's tag")


def _check_endpoint_name(name: str) -> str:
    return check_name(name, "An endpoint's name")


def _check_route(route: str) -> str:
    check_route(route)
    return route


def _check_methods(methods: list[str]) -> list[str]:
    try:
        return list(check_methods(methods) or ())
    except TypeError as error:  # pydantic takes no other than ValueError
        raise ValueError(str(error)) from None


def _check_traffic(weights: dict[str, float]) -> dict[str, float]:
    check_weights(weights)
    return weights


def _check_resources(resources: dict[str, float]) -> dict[str, float]:
    check_resources(resources)
    return resources


def _check_runtime_env(env: dict[str, Any]) -> dict[str, Any]:
    check_runtime_env(env)
    return env


Tag = Annotated[str, AfterValidator(_check_tag)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ActorOptions(BaseModel):
    """Ray's options of each replica's process, those that plain data can say."""

    # Without `object_store_memory`: Ray sets nothing aside for it any more, and warns.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    num_cpus: Amount = NUM_CPUS
    """CPUs that Ray sets aside for each replica. 0: none, it always fits."""

    num_gpus: Amount | None = None
    """GPUs for each replica; a share of one, such as 0.5, too."""

    memory: Annotated[int, Field(ge=0)] | None = None
    """Memory that Ray sets aside for each replica, bytes."""

    resources: Annotated[dict[str, Amount], AfterValidator(_check_resources)] | None = None
    """Resources of your own naming, as nodes were started with: `{Magic: 1}`."""

    accelerator_type: str | None = None
    """Kind of GPU, by Ray's name of it."""

    label_selector: dict[str, str] | None = None
    """Labels of the nodes that a replica may be placed on."""

    scheduling_strategy: Literal["DEFAULT", "SPREAD"] | None = None
    """SPREAD: over as many nodes as there are."""

    enable_task_events: bool | None = None
    """Whether Ray's dashboard is told of each call."""

    runtime_env: Annotated[dict[str, Any], AfterValidator(_check_runtime_env)] | None = None
    """Ray's runtime environment: `env_vars`, `pip`, `working_dir` (a URI)..."""


class Backend(BaseModel):
    """Code that answers requests, under a tag."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)

    import_path: Annotated[str, AfterValidator(_check_import)] = Field(
        alias="import", examples=["package.module:Name"]
    )
    """What answers: `package.module:Name`, a function, a class with `__call__` or an ASGI
    application. Each replica imports it; this machine need not have it."""

    init_args: list[Any] = []
    """Arguments of the class's constructor."""

    init_kwargs: dict[str, Any] = {}
    """Named arguments of the class's constructor."""

    ray_actor_options: ActorOptions = ActorOptions()
    """Ray's options of each replica's process."""

    config: BackendConfig = BackendConfig()
    """How the backend runs. What is left out has its default, also if it was set before."""


class Endpoint(BaseModel):
    """A name, and usually a route, whose requests are shared out over backends."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={"oneOf": [{"required": ["backend"]}, {"required": ["traffic"]}]},
    )

    route: Annotated[str, AfterValidator(_check_route)] | None = Field(
        default=None, examples=["/hello", "/users/{id:int}"]
    )
    """HTTP route, `/hello` or with parameters `/users/{id:int}`. Left out: for handles only."""

    methods: Annotated[list[str], AfterValidator(_check_methods)] | None = Field(
        default=None, examples=[["GET", "POST"]]
    )
    """HTTP methods. Left out: GET, and all for an ASGI application."""

    backend: str | None = None
    """Tag of the backend that gets all requests."""

    traffic: Annotated[dict[str, Share], AfterValidator(_check_traffic)] | None = None
    """Backend tag -> weight, instead of `backend`. The weights sum to 1."""

    shadow: dict[str, Share] = {}
    """Backend tag -> share of the requests of which it gets a copy; its answers are thrown away."""


class App(BaseModel):
    """An app of Tagtrail: what `tagtrail deploy` makes of a running instance."""

    model_config = ConfigDict(
        extra="forbid",
        title="Tagtrail app",
        json_schema_extra={"patternProperties": {f"^{EXTENSION}": True}},
    )

    backends: dict[Tag, Backend]
    """The backends, by tag. A new version of the code is a new tag."""

    endpoints: dict[Annotated[str, AfterValidator(_check_endpoint_name)], Endpoint] = {}
    """The endpoints, by name."""

    @model_validator(mode="before")
    @classmethod
    def _drop_extensions(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {k: v for k, v in data.items() if not str(k).startswith(EXTENSION)}


def wanted_of(app: App) -> Wanted:
    """What the file asks for."""
    backends = {tag: _wanted_backend(tag, backend) for tag, backend in app.backends.items()}
    endpoints = {name: _wanted_endpoint(name, end) for name, end in app.endpoints.items()}
    return Wanted(backends, endpoints)


def check_whole(data: object) -> Iterator[Problem]:
    """What is wrong between one place of the file and another, in raw data that may be anything."""
    backends = _mapping(data, "backends")
    routes: dict[str, object] = {}
    for name, endpoint in _mapping(data, "endpoints").items():
        if not isinstance(endpoint, Mapping):
            continue
        place = ("endpoints", name)
        if ("backend" in endpoint) == ("traffic" in endpoint):
            yield Problem(
                place,
                "Give one of 'backend: TAG' and 'traffic: {TAG: WEIGHT}'. Got "
                f"{'both' if 'backend' in endpoint else 'neither'}.",
                is_key=True,
            )
        if isinstance(tag := endpoint.get("backend"), str) and tag not in backends:
            yield Problem((*place, "backend"), _unknown_backend(tag, backends))
        for key in ("traffic", "shadow"):
            for tag in _mapping(endpoint, key):
                if tag not in backends:
                    yield Problem((*place, key, tag), _unknown_backend(tag, backends), is_key=True)
        route = endpoint.get("route")
        if isinstance(route, str) and routes.setdefault(route, name) != name:
            yield Problem(
                (*place, "route"),
                f"Route {route!r} is endpoint '{routes[route]}' already. Choose another route.",
            )


def suggest(name: object, known: Iterable[object]) -> str:
    """What was perhaps meant, else what there is."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(str(name), names, 1)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names) or 'none'}."


def _unknown_backend(tag: object, backends: Mapping[Any, object]) -> str:
    return f"Backend '{tag}' is not in this file. {suggest(tag, backends)}"


def _mapping(data: object, key: str) -> Mapping[Any, Any]:
    found = data.get(key) if isinstance(data, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _wanted_backend(tag: str, backend: Backend) -> WantedBackend:
    options = backend.ray_actor_options.model_dump(exclude_none=True)
    source = Source(backend.import_path, tuple(backend.init_args), backend.init_kwargs)
    return WantedBackend(tag, source, check_actor_options(options), backend.config)


def _wanted_endpoint(name: str, endpoint: Endpoint) -> WantedEndpoint:
    weights = endpoint.traffic or {str(endpoint.backend): 1.0}
    shadows = {tag: share for tag, share in endpoint.shadow.items() if share > 0}
    methods = None if endpoint.methods is None else tuple(endpoint.methods)
    return WantedEndpoint(name, endpoint.route, methods, TrafficPolicy.of(weights, shadows))
