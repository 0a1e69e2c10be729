"""The records that the rooms exchange: what the controller tells ingresses and handles."""

from __future__ import annotations

from dataclasses import dataclass

from serve.traffic import TrafficPolicy

INGRESS_KEY = "ingress"
"""Under this the controller publishes the IngressTable."""


def backend_key(tag: str) -> str:
    """The key of what the replicas of a backend know of each other."""
    return f"backend/{tag}"


def endpoint_key(name: str) -> str:
    """Under this it publishes an endpoint's EndpointTargets."""
    return f"endpoint/{name}"


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a running replica is reached.

    Attributes:
        replica_tag: `<backend tag>#<6 letters>`.
        actor_name: name of its Ray actor, in the instance's namespace.
        node_id: Ray's id of its node, hexadecimal.
        host: address its sockets are bound to.
        http_port: port of its ASGI server (plain HTTP/1.1).
        call_port: port of its handle socket.
        call_socket: abstract Unix socket of the same on its own node (Linux), without the leading
            NUL; or "".
        is_exposed: other nodes reach it; else `host` is its own node's loopback.
    """

    replica_tag: str
    actor_name: str
    node_id: str
    host: str
    http_port: int
    call_port: int
    call_socket: str = ""
    is_exposed: bool = True

    def is_reachable_from(self, node_id: str) -> bool:
        """Whether who is on that node can connect to it. "": a node that is not known."""
        return self.is_exposed or node_id in ("", self.node_id)


@dataclass(frozen=True, slots=True)
class BackendTargets:
    """One backend as those who send it requests see it.

    Attributes:
        backend_tag: its tag.
        replicas: those that take requests now, in the order of their tags. Empty while none is
            ready.
        max_concurrent_queries: limit in flight at each replica, for each sender.
        max_queued_queries: how many may wait for a free replica, for each sender.
        queue_timeout_s: how long one may wait, seconds.
    """

    backend_tag: str
    replicas: tuple[ReplicaAddress, ...] = ()
    max_concurrent_queries: int = 8
    max_queued_queries: int = 1000
    queue_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class EndpointTargets:
    """All that a handle needs to send to an endpoint.

    Attributes:
        endpoint: its name.
        policy: weights and shadows.
        backends: one for each backend that the policy names.
    """

    endpoint: str
    policy: TrafficPolicy
    backends: tuple[BackendTargets, ...]


@dataclass(frozen=True, slots=True)
class IngressRoute:
    """One endpoint as an ingress sees it.

    Attributes:
        endpoint: its name.
        route: pattern such as `/users/{id:int}`; None: reached by handles only, listed in
            `/-/routes`.
        methods: upper-case HTTP methods; empty: all of them.
        is_mount: the route is a prefix (an ASGI application lives below it), not a whole path.
        policy: weights and shadows.
    """

    endpoint: str
    route: str | None
    methods: tuple[str, ...]
    is_mount: bool
    policy: TrafficPolicy


@dataclass(frozen=True, slots=True)
class IngressTable:
    """The whole of what an ingress serves.

    Attributes:
        routes: in the order they were created.
        backends: every backend that some route's policy names.
    """

    routes: tuple[IngressRoute, ...] = ()
    backends: tuple[BackendTargets, ...] = ()
