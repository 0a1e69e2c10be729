"""What the doctor is told: of the cluster, by who knows Ray; of the pipeline, by the user. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANY = ("0.0.0.0", "[::]", "::")
"""Hosts of a server that listens on all addresses of its node."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node of the cluster.

    Attributes:
        host: its address.
        is_here: it is this machine.
        port: Ray's metrics port, HOST:PORT; "": it has none.
        page: its ingress's metrics page, HOST:PORT; "": it has none.
    """

    host: str
    is_here: bool
    port: str = ""
    page: str = ""

    def reach(self, address: str) -> str:
        """An address of a server on this node as it is reached from here; "": it is not."""
        host, _, port = address.rpartition(":")
        if host in ANY:
            host = "127.0.0.1" if self.is_here else self.host
        is_loopback = host.startswith("127.") or host in ("localhost", "[::1]", "::1")
        # Nodes that share this machine may be on different addresses of its loopback.
        is_closed = is_loopback and not self.is_here and not self.host.startswith("127.")
        return "" if is_closed else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the cluster tells of an instance.

    Attributes:
        ingress: HTTP address that is asked, HOST:PORT; "": none.
        no_ingress: why there is none.
        node_id: of that ingress.
        nodes: by id.
        replica_nodes: node id of each replica, by tag.
        has_access_log: whether requests leave records: of each backend by tag, of the ingresses
            under "".
        discovery: files in which Prometheus finds the pages, by job.
        silent: replicas that do not answer their health check, a clause each.
    """

    ingress: str
    no_ingress: str
    node_id: str
    nodes: Mapping[str, NodeFacts]
    replica_nodes: Mapping[str, str] = field(default_factory=dict)
    has_access_log: Mapping[str, bool] = field(default_factory=dict)
    discovery: Mapping[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()

    def node_of(self, replica: str) -> NodeFacts:
        """The node that answered: a replica's, or with "" the ingress's."""
        node_id = self.replica_nodes.get(replica, self.node_id)
        return self.nodes.get(node_id) or self.nodes[self.node_id]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Programs of the pipeline that the user named; "" for those that are looked for."""

    agent: str = ""
    loki: str = ""
    victoria_logs: str = ""
    prometheus: str = ""
    grafana: str = ""


def choose_ingress(
    listening: Mapping[str, str], nodes: Mapping[str, NodeFacts]
) -> tuple[str, str, str]:
    """The ingress that is asked: this machine's, else the first that can be reached.

    Args:
        listening: address of each ingress, by node id.
        nodes: by id.

    Returns:
        Its node's id, its address, and why there is none; "" for what is not so.
    """
    if not listening:
        return "", "", "the instance has no HTTP server (NoServer), so nothing can be asked"
    known = sorted(listening.keys() & nodes.keys(), key=lambda node_id: not nodes[node_id].is_here)
    for node_id in known:
        address = nodes[node_id].reach(listening[node_id])
        if address:
            return node_id, address, ""
    where = ", ".join(f"{listening[node_id]} of {nodes[node_id].host}" for node_id in known)
    return "", "", f"it listens on {where} only: call 'tagtrail doctor' on that machine"
