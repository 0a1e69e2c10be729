"""What `tagtrail top` does: looks at the metrics again and again, and shows what happens."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from observability.trail.live import Look, Row, compare
from serve.numbers import NumberSources

ASK_S = 2.0


def run_top(controller_name: str, every_s: float, count: int | None, *, as_json: bool) -> None:
    """Show the rates of the last moment, until Ctrl-C or `count` times.

    Args:
        controller_name: of the instance.
        every_s: seconds between two looks.
        count: how often to show; None: until Ctrl-C.
        as_json: a line of JSON each time instead of a table.
    """
    shown = itertools.islice(_watch(controller_name, every_s), count)
    try:
        if as_json:
            for rows in shown:
                click.echo(json.dumps({"time": time.time(), "rows": [r.as_dict() for r in rows]}))
            return
        console = Console()
        if not console.is_terminal:
            for rows in shown:
                console.print(make_table(rows))
            return
        with Live(console=console, auto_refresh=False) as live:
            for rows in shown:
                live.update(make_table(rows), refresh=True)
    except KeyboardInterrupt:
        pass


def make_table(rows: list[Row]) -> Table:
    """The rows as a table: endpoints, below each its backends, below each its replicas."""
    table = Table(box=SIMPLE, pad_edge=False, title=None if rows else "There is no endpoint yet.")
    table.add_column("endpoint", no_wrap=True)
    for name in ("per s", "errors/s", "p50 ms", "p99 ms", "running", "queued"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if not row.backend else "dim" if row.replica else ""
        table.add_row(
            escape(_name(row)),
            f"{row.per_s:,.1f}",
            f"[red]{row.errors_per_s:,.1f}[/]" if row.errors_per_s else "0",
            _ms(row.p50_ms),
            _ms(row.p99_ms),
            str(row.in_progress),
            f"[yellow]{row.queued}[/]" if row.queued else "0",
            style=style,
        )
    return table


def _watch(controller_name: str, every_s: float) -> Iterator[list[Row]]:
    sources = NumberSources(controller_name)
    before, looked = Look(sources.ask("", ASK_S)), time.monotonic()
    while True:
        time.sleep(every_s)
        after, now = Look(sources.ask("", ASK_S)), time.monotonic()
        yield compare(before, after, now - looked)
        before, looked = after, now


def _name(row: Row) -> str:
    if row.replica:
        return f"    {row.replica}"
    return f"  {row.backend}" if row.backend else row.endpoint or "(no endpoint)"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
