"""An ingress's metrics page: its own numbers and those of the actors it tells of, over HTTP."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, start_http_server

from observability.instrument.exposition import Page
from observability.instrument.numbers import Snapshot, process_numbers
from serve.numbers import NumberSources

ASK_S = 2.0
STOP_S = 2.0


class MetricsPage:
    """Served by prometheus-client in a thread of its own.

    Args:
        host: address to listen on.
        port: port; 0: a free one.
        controller_name: the instance's controller; it knows whose numbers belong on the page.
        node_id: Ray's id of the ingress's node.

    Raises:
        ValueError: the address can't be had.
    """

    def __init__(self, host: str, port: int, controller_name: str, node_id: str) -> None:
        self._node_id = node_id
        self._sources = NumberSources(controller_name)
        self._lock = threading.Lock()  # two who scrape at once share the sources
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Page(self._snapshots))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ValueError(
                f"The metrics page cannot listen on {host}:{port} ({error}). Choose another "
                "admin_port in http_options, 0 for a free one, or admin_host=None for no page."
            ) from None
        self.address = f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(STOP_S)

    def _snapshots(self) -> list[Snapshot]:
        with self._lock:
            theirs = self._sources.ask(self._node_id, ASK_S)
        return [*process_numbers.snapshot(), *theirs]
