"""Names are shown as they are, whatever they hold."""

from __future__ import annotations

import pytest

from observability.trail.live import Row
from serve.tables import print_status
from serve.top import make_table

ODD = "[red]odd[/red]"


def test_status_shows_names_that_look_like_markup(capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = {"name": ODD, "route": "/[x]", "methods": [], "traffic": {ODD: 1.0}, "shadows": {}}
    backend = {
        "tag": ODD,
        "running": 0,
        "goal": 1,
        "replicas": [{"tag": f"{ODD}#a", "phase": "STARTING", "restarts": 0, "http": None}],
        "last_error": "list[int] is [bold]wrong",
    }
    trouble = "Controller: [bold]loop"
    described = {"ingresses": [], "endpoints": [endpoint], "backends": [backend]}
    print_status(described | {"troubles": [trouble]})

    shown = capsys.readouterr().out
    assert trouble in shown
    assert f"{ODD} 1" in shown
    assert "/[x]" in shown
    assert "list[int] is [bold]wrong" in shown


def test_top_shows_names_that_look_like_markup_and_marks_what_is_missing() -> None:
    table = make_table([Row(ODD, "", "", 1234.5, 0.0, None, 2.25, 1, 0)])

    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["\\[red]odd\\[/red]", "1,234.5", "0", "-", "2.2", "1", "0"]


def test_servers_of_several_nodes_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    good = {"node": "10.0.0.1", "node_id": "a" * 56, "address": "0.0.0.0:8000", "error": ""}
    deaf = {"node": "", "node_id": "b" * 56, "address": "", "error": "port 8000 is taken"}
    ingresses = [
        good | {"metrics": "http://127.0.0.1:1/metrics", "refused": "OSError: [Errno 28] full"},
        deaf | {"metrics": "", "refused": ""},
    ]
    print_status({"ingresses": ingresses, "endpoints": [], "backends": [], "troubles": []})
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "10.0.0.1" in line)
    assert "0.0.0.0:8000" in row
    row = next(line for line in shown.splitlines() if "b" * 12 in line)
    assert "not listening" in row
    (line,) = (line for line in shown.splitlines() if "can't apply" in line)
    assert "10.0.0.1" in line
    assert line.endswith("OSError: [Errno 28] full")
