"""Writes deploy/grafana/dashboards from observability/grafana.

    python tools/generate_dashboards.py            write them
    python tools/generate_dashboards.py --check    exit 1 when one is not what the code says

A unit test makes the same check.
"""

from __future__ import annotations

import sys
from pathlib import Path

from observability.grafana.boards import BOARDS
from observability.grafana.build import build_dashboard

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana" / "dashboards"


def files() -> dict[str, str]:
    """Text by file name."""
    return {f"{board.name}.json": build_dashboard(board) for board in BOARDS}


def stale() -> list[str]:
    """Names of files that are not what the code says, or that it does not know."""
    wanted = files()
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    return sorted(name for name in wanted | there if wanted.get(name) != there.get(name))


def main() -> int:
    """The command."""
    names = stale()
    if "--check" in sys.argv[1:]:
        for name in names:
            print(f"{name} is not what the code says. Run: python tools/generate_dashboards.py")
        return 1 if names else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = files()
    for name in names:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name])
        else:
            (FOLDER / name).unlink()
        print(f"wrote {name}" if name in wanted else f"removed {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
