"""The map files: every word that a user chose, keyed by names of ours. Pure.

No such word enters haproxy.cfg, so there is nothing to quote there; in a map file a value is the
rest of its line, and control characters are refused. An endpoint's key tells its kind: `m1.s.p.7`
is the eighth route, has the second set of methods, a split policy (s) and is a prefix (p).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from serve.ingress.names import check_text, section_name
from serve.records import BackendTargets, IngressRoute, IngressTable
from serve.routes import compile_route
from serve.traffic import thresholds

HEALTH_KEY = "healthz"
ROUTES_KEY = "routes"
HEALTH_SECTION = "ingress_healthz"
ROUTES_SECTION = "ingress_routes"
NO_TRAFFIC_SECTION = "ingress_no_traffic"
MISS_SECTION = "ingress_miss"
RELAY_SECTION = "ingress_relay"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route that is served, under its key."""

    key: str
    route: IngressRoute

    @property
    def is_split(self) -> bool:
        """Whether a number must be drawn to answer its requests."""
        return len(thresholds(self.route.policy)) > 1 or bool(self.route.policy.shadows)


@dataclass(frozen=True, slots=True)
class Map:
    """One map file.

    Attributes:
        name: file name, with a hash of the content: a file that is in use is never rewritten.
        text: its lines, `key value`.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Maps:
    """All map files of a table.

    Attributes:
        literals: path to key of the endpoint.
        patterns: regular expression to key, in the order in which they are tried.
        mounts: prefix with a slash at its end to key; the longest wins.
        targets: key to section, for endpoints whose section does not depend on a number.
        endpoints: key to the endpoint's name.
        routes: key to the route.
        tags: section to backend tag.
        listing: body of `/-/routes`; no map, but a file beside them.
    """

    literals: Map
    patterns: Map
    mounts: Map
    targets: Map
    endpoints: Map
    routes: Map
    tags: Map
    listing: Map

    @property
    def all(self) -> tuple[Map, ...]:
        """Every one of them."""
        return (
            self.literals,
            self.patterns,
            self.mounts,
            self.targets,
            self.endpoints,
            self.routes,
            self.tags,
            self.listing,
        )


def all_backends(table: IngressTable) -> tuple[BackendTargets, ...]:
    """The table's backends, and one without replicas for each tag that only a policy names."""
    known = {backend.backend_tag for backend in table.backends}
    named = {tag for route in table.routes for tag in route.policy.backend_tags}
    return (*table.backends, *(BackendTargets(tag) for tag in sorted(named - known)))


def allowed_methods(route: IngressRoute) -> tuple[str, ...]:
    """Methods that the endpoint answers, sorted; HEAD wherever GET is. Empty: all."""
    methods = set(route.methods)
    return tuple(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def method_sets(table: IngressTable) -> list[tuple[str, ...]]:
    """The different sets of methods; an endpoint's key starts with its set's index here."""
    return sorted({allowed_methods(route) for route in table.routes})


def key_endpoints(table: IngressTable) -> list[Endpoint]:
    """The endpoints that have a route, with their keys, in the order of the table."""
    sets = method_sets(table)
    endpoints = []
    for index, route in enumerate(table.routes):
        if route.route is None:
            continue
        flags = "s." if Endpoint("", route).is_split else ""
        flags += "p." if route.is_mount else ""
        key = f"m{sets.index(allowed_methods(route))}.{flags}{index}"
        endpoints.append(Endpoint(key, route))
    return endpoints


def make_maps(table: IngressTable) -> Maps:
    """The map files of a table.

    Raises:
        ValueError: a name or route cannot be served; says which and why.
    """
    endpoints = key_endpoints(table)
    literals: list[tuple[str, str]] = []
    patterns: list[tuple[str, str]] = []
    mounts: list[tuple[str, str]] = []
    pattern_mounts: list[tuple[str, str]] = []
    for endpoint in endpoints:
        path = endpoint.route.route or "/"
        compiled = compile_route(path, endpoint.route.is_mount)
        if not compiled.is_literal:
            lines = pattern_mounts if compiled.is_mount else patterns
            lines.append((compiled.regex, endpoint.key))
        elif compiled.is_mount:
            mounts.append((path.rstrip("/") + "/", endpoint.key))
        else:
            literals.append((path, endpoint.key))
    literals += [("/-/healthz", HEALTH_KEY), ("/-/routes", ROUTES_KEY)]
    targets = [(endpoint.key, _section(endpoint)) for endpoint in endpoints]
    targets += [(HEALTH_KEY, HEALTH_SECTION), (ROUTES_KEY, ROUTES_SECTION)]
    return Maps(
        literals=_map("literals", literals),
        patterns=_map("patterns", [*patterns, *pattern_mounts]),
        mounts=_map("mounts", mounts),
        targets=_map("targets", targets),
        endpoints=_map(
            "endpoints", [(e.key, check_text(e.route.endpoint, "Endpoint")) for e in endpoints]
        ),
        routes=_map("routes", [(e.key, e.route.route or "/") for e in endpoints]),
        tags=_map(
            "tags",
            [
                (section_name(b.backend_tag), check_text(b.backend_tag, "Backend"))
                for b in all_backends(table)
            ],
        ),
        listing=_file("listing", "json", routes_json(table)),
    )


def routes_json(table: IngressTable) -> str:
    """Body of `/-/routes`: route, or name of an endpoint without one, to [endpoint, [methods]]."""
    listing = {r.route or r.endpoint: [r.endpoint, list(r.methods)] for r in table.routes}
    return json.dumps(listing, separators=(",", ":"), ensure_ascii=False)


def _section(endpoint: Endpoint) -> str:
    """Where its requests go when no rule for a share of them applies: the last share's backend."""
    edges = thresholds(endpoint.route.policy)
    return section_name(edges[-1][0]) if edges else NO_TRAFFIC_SECTION


def _map(name: str, lines: Iterable[tuple[str, str]]) -> Map:
    return _file(name, "map", "".join(f"{key} {value}\n" for key, value in lines))


def _file(name: str, kind: str, text: str) -> Map:
    return Map(f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.{kind}", text)
