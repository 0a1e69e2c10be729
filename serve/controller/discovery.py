"""Where an instance's metrics pages are, in a file for Prometheus, as Ray has one of its nodes.

`file_sd_configs` in deploy/prometheus/prometheus.yml reads it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
from collections.abc import Iterable, Iterator

from serve.controller.observed import IngressView

logger = logging.getLogger("ray.serve")

JOB = "tagtrail"
"""Value of the label `job` of what is scraped there."""


def reachable_pages(ingresses: Iterable[IngressView], node_id: str) -> Iterator[str]:
    """The metrics pages that can be reached from a node, `HOST:PORT` each.

    By default a page listens on its own node's 127.0.0.1; of other nodes such a page is left out.

    Args:
        ingresses: all that there are.
        node_id: Ray's id of that node.
    """
    for view in ingresses:
        host, _, port = view.admin_address.rpartition(":")
        if host in ("0.0.0.0", "::"):
            yield f"{view.node_address}:{port}"
        elif host and (view.node_id == node_id or not _is_loopback(host)):
            yield view.admin_address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class MetricsTargets:
    """The file of one instance. Never raises: serving does not depend on it.

    Args:
        folder: where it is; Prometheus knows it.
        name: of the instance's controller.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.path = os.path.join(folder, f"tagtrail_metrics_{name.replace(':', '_')}.json")
        self._told: list[str] = []

    def tell(self, addresses: Iterable[str]) -> None:
        """Have these, HOST:PORT each, in the file. It is replaced whole, and when they change."""
        targets = sorted(addresses)
        if targets == self._told:
            return
        self._told = targets
        fresh = f"{self.path}.new"
        try:
            with open(fresh, "w") as file:
                json.dump([{"labels": {"job": JOB}, "targets": targets}], file)
            os.replace(fresh, self.path)
        except OSError as error:
            logger.warning("Prometheus can't be told where the metrics pages are: %s", error)

    def remove(self) -> None:
        """Remove the file."""
        for path in (self.path, f"{self.path}.new"):
            with contextlib.suppress(OSError):
                os.remove(path)
