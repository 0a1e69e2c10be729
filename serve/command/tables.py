"""A described status as tables, for people. What they show is worked out in `serve.status`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve.controller.health import LATE_S


def print_status(described: dict[str, Any]) -> None:
    """Print a described status as tables."""
    console = Console()
    _print_ingresses(console, described["ingresses"])
    for ingress in described["ingresses"]:
        if ingress["refused"]:
            node, reason = ingress["node"] or ingress["node_id"][:12], escape(ingress["refused"])
            text = f"HTTP server of node {node} can't apply the latest change: {reason}"
            console.print(f"[red]{text}[/]", highlight=False, soft_wrap=True)
    endpoints = Table("Endpoint", "Route", "Methods", "Traffic", "Shadows", title="Endpoints")
    for endpoint in described["endpoints"]:
        endpoints.add_row(
            escape(endpoint["name"]),
            escape(endpoint["route"] or "(handles only)"),
            ", ".join(endpoint["methods"]) or "all",
            escape(_shares(endpoint["traffic"])),
            escape(_shares(endpoint["shadows"])),
        )
    console.print(endpoints)
    backends = Table("Backend", "Replica", "Phase", "Restarts", "HTTP", title="Backends")
    for backend in described["backends"]:
        label = f"{backend['tag']} ({backend['running']} of {backend['goal']} running)"
        for replica in backend["replicas"] or [{}]:
            colour = "green" if replica.get("phase") == "RUNNING" else "yellow"
            owed_s = replica.get("unanswered_s", 0.0)
            owes = f", no sign of life for {owed_s:.0f} s" if owed_s >= LATE_S else ""
            backends.add_row(
                escape(label),
                escape(replica.get("tag", "")),
                f"[{colour}]{replica.get('phase', 'NONE')}{owes}[/]",
                str(replica.get("restarts", "")),
                replica.get("http") or "",
            )
            label = ""
    console.print(backends)
    for backend in described["backends"]:
        if backend["last_error"]:
            error = escape(backend["last_error"])
            console.print(f"[red]{escape(backend['tag'])}[/]: {error}", highlight=False)
    for trouble in described["troubles"]:
        console.print(f"[red]{escape(trouble)}[/]", highlight=False)


def _print_ingresses(console: Console, ingresses: list[dict[str, Any]]) -> None:
    """Two lines for one, a table for those of several nodes."""
    listens = [i["address"] or f"not listening: {i['error']}" for i in ingresses]
    if len(ingresses) > 1:
        table = Table("Node", "HTTP", "Metrics, from the node itself", title="HTTP servers")
        for ingress, listening in zip(ingresses, listens, strict=True):
            node = ingress["node"] or ingress["node_id"][:12]
            table.add_row(node, escape(listening), ingress["metrics"])
        console.print(table)
        return
    console.print(f"HTTP: {''.join(listens) or 'no server'}", highlight=False)
    for ingress in ingresses:
        if ingress["metrics"]:
            console.print(f"Metrics: {ingress['metrics']}", highlight=False)


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{tag} {share:.4g}" for tag, share in shares.items())
