"""How an ingress prefers the replicas of its own node. Pure.

An idle replica of the node is taken first. When all of them are at work, the one with the fewest
requests under way is, of all nodes; one under way at another node's counts as LOCAL_WEIGHT of this
node's. So no request waits behind another one while any replica is idle, and a burst at one node
is spread, though a node whose neighbours are as busy as itself keeps nearly all to itself.

All replicas are in one HAProxy section, with one queue, and a request whose replica dies moves to
any other. Weights alone won't do: to leastconn an idle server is idle, whatever its weight.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve.records import ReplicaAddress

LOCAL_WEIGHT = 4
"""HAProxy's weight of a server of this node; another node's has 1."""


def split_by_node(
    replicas: Iterable[ReplicaAddress], node_id: str
) -> tuple[list[ReplicaAddress], list[ReplicaAddress]]:
    """Those of a node, and all others. Without a node: none, and all."""
    found: tuple[list[ReplicaAddress], list[ReplicaAddress]] = [], []
    for replica in replicas:
        found[not node_id or replica.node_id != node_id].append(replica)
    return found


def prefer_idle(section: str, servers: list[str]) -> list[str]:
    """Rules of a section that choose an idle one of some of its servers.

    The first round draws lots, so that the idle take turns: each has the same chance. The second
    finds what the first passed over.
    """
    idle = [
        f"    use-server {server} if {{ srv_conn({section}/{server}) eq 0 }}" for server in servers
    ]
    first = [f"{rule} {{ rand({len(idle) - index}) eq 0 }}" for index, rule in enumerate(idle)]
    return [*first[:-1], *idle[-1:], *idle[:-1]]
