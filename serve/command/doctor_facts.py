"""What a running cluster and its instance tell the doctor. Ray must be connected."""

from __future__ import annotations

from pathlib import Path

from observability.doctor.facts import InstanceFacts, NodeFacts, choose_ingress
from serve.session import session_folder
from serve.status import Status, find_silent


def gather_facts(status: Status) -> InstanceFacts:
    """What the doctor needs to know of the cluster."""
    import ray

    own_id = ray.get_runtime_context().get_node_id()
    own_host = ray.util.get_node_ip_address()
    views = status.observed.ingresses
    nodes = {}
    for entry in ray.nodes():
        if not entry["Alive"]:
            continue
        node_id, host = entry["NodeID"], entry["NodeManagerAddress"]
        port, view = entry["MetricsExportPort"], views.get(node_id)
        nodes[node_id] = NodeFacts(
            host,
            is_here=node_id == own_id or host == own_host,
            port=f"{host}:{port}" if port and port > 0 else "",
            page=view.admin_address if view is not None and view.admin_address else "",
        )
    http = status.goal.http
    listening = {
        node_id: view.address or f"{http.host}:{http.port}" for node_id, view in views.items()
    }
    node_id, ingress, reason = choose_ingress(listening, nodes)
    logging = {
        tag: backend.config.logging_config.over(status.goal.logging).access_log
        if backend.config.logging_config is not None
        else status.goal.logging.access_log
        for tag, backend in status.goal.backends.items()
    }
    return InstanceFacts(
        ingress,
        reason,
        node_id or own_id,
        nodes,
        {
            tag: replica.address.node_id
            for tag, replica in status.observed.replicas.items()
            if replica.address is not None
        },
        {**logging, "": status.goal.logging.access_log},
        _discovery_files(session_folder()),
        tuple(find_silent(status).values()),
    )


def _discovery_files(session: str) -> dict[str, str]:
    """Where Prometheus finds the addresses of the pages, by job."""
    folder = Path(session).parent
    return {
        "ray": str(folder / "prom_metrics_service_discovery.json"),
        "tagtrail": str(folder / "session_latest" / "tagtrail_metrics_*.json"),
    }
