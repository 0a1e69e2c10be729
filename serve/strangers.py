"""Strangers at a replica's sockets: each is logged once, so that none can fill the log."""

from __future__ import annotations

import logging

_MAX_NAMED = 1000


class Strangers:
    """Whom one socket refused.

    Args:
        what: what was refused, with a capital letter.
        logger: default `ray.serve`.
    """

    def __init__(self, what: str, logger: logging.Logger | None = None) -> None:
        self._what = what
        self._logger = logger or logging.getLogger("ray.serve")
        self._named: set[str] = set()

    def note(self, peer: str, why: object = "it did not come from an ingress") -> None:
        """Log a refusal: at WARNING for a peer's first, at DEBUG for its others."""
        level = logging.DEBUG
        if peer not in self._named and len(self._named) < _MAX_NAMED:
            self._named.add(peer)
            level = logging.WARNING
        self._logger.log(level, "%s from %s was refused: %s", self._what, peer, why)
