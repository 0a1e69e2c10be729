"""Which backend a request goes to. Pure: the same number means the same, here and in HAProxy.

A request is given a whole number in [0, SPLIT_SCALE): random, or from its shard key. The number
walks the
backends in the order of their tags by cumulative weight; each shadow whose proportion exceeds it
gets a copy.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

SPLIT_SCALE = 1_000_000_000
"""Resolution of a traffic split. HAProxy's `rand()` and comparisons take it whole."""

SHARD_HEX_DIGITS = 15
"""Digits of a key's SHA-256 that make its number; HAProxy: `sha2(256),hex,bytes(0,15),hex2i`."""

_random = random.SystemRandom()
"""Not the module's own numbers: a user's `random.seed(0)` would send all requests one way."""


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """How an endpoint's requests are shared out.

    Attributes:
        weights: (backend tag, weight) in the order of the tags; the weights sum to 1. Empty: no
            traffic.
        shadows: (backend tag, proportion in (0, 1]) in the order of the tags.
    """

    weights: tuple[tuple[str, float], ...] = ()
    shadows: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(
        cls, weights: Mapping[str, float], shadows: Mapping[str, float] | None = None
    ) -> TrafficPolicy:
        """A policy from plain dictionaries."""
        return cls(tuple(sorted(weights.items())), tuple(sorted((shadows or {}).items())))

    @property
    def backend_tags(self) -> tuple[str, ...]:
        """Every backend the policy names, in traffic or in shadows, without repetition."""
        return tuple(sorted({tag for tag, _ in (*self.weights, *self.shadows)}))


def thresholds(policy: TrafficPolicy) -> list[tuple[str, int]]:
    """(backend tag, first number that is not its own any more), in walking order."""
    edges: list[tuple[str, int]] = []
    total = 0.0
    for tag, weight in policy.weights:
        total += weight
        if weight > 0:
            edges.append((tag, round(total * SPLIT_SCALE)))
    if edges:  # rounding must not leave the last numbers to nobody
        edges[-1] = (edges[-1][0], SPLIT_SCALE)
    return edges


def split_number(shard_key: str | None) -> int:
    """The request's number: from the shard key when there is one, random otherwise."""
    if shard_key is None:
        return _random.randrange(SPLIT_SCALE)
    digest = hashlib.sha256(shard_key.encode()).hexdigest()
    return int(digest[:SHARD_HEX_DIGITS], 16) % SPLIT_SCALE


def choose_backend(policy: TrafficPolicy, number: int) -> str | None:
    """The backend that answers, or None when the policy has no traffic."""
    for tag, edge in thresholds(policy):
        if number < edge:
            return tag
    return None


def choose_shadows(policy: TrafficPolicy, number: int) -> list[str]:
    """The backends that get a copy whose answer is thrown away."""
    return [tag for tag, proportion in policy.shadows if number < shadow_edge(proportion)]


def shadow_edge(proportion: float) -> int:
    """First number that is not shadowed any more."""
    return round(proportion * SPLIT_SCALE)
