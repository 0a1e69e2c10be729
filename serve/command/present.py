"""Asks the replicas of a cluster what they have under way of a request, all at once."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from observability.trail.source import Present
from serve.ids import NAMESPACE, parse_actor_name

ASK_S = 2.0
"""Longest wait for all of them, seconds."""


def ask_replicas(request_id: str) -> Present:
    """What is under way of a request, at the replicas of all instances. Ray must be connected."""
    asked: dict[Any, str] = {}
    for entry in ray.util.list_named_actors(all_namespaces=True):
        name = parse_actor_name(entry["name"])
        if entry["namespace"] != NAMESPACE or name is None or not name.replica_tag:
            continue
        try:
            actor = ray.get_actor(entry["name"], namespace=NAMESPACE)
        except ValueError:  # it has ended since
            continue
        asked[actor.under_way.remote(request_id)] = name.replica_tag
    done, _ = ray.wait([*asked], num_returns=len(asked), timeout=ASK_S) if asked else ([], [])
    records = []
    silent = set(asked.values())
    for reference in done:
        silent.discard(asked[reference])
        with contextlib.suppress(RayError):  # it has ended since
            records += ray.get(reference)
    return Present(tuple(records), tuple(sorted(silent)))
