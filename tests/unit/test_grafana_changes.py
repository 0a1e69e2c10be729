"""What has to change in a Grafana."""

from __future__ import annotations

from typing import Any

import pytest

from observability.grafana.changes import Action, Item, Kind, compare

WANTED = {"uid": "u", "title": "T", "panels": [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}]}


def change_for(found: Any) -> tuple[Action, tuple[str, ...]]:
    change = compare(Item(Kind.DASHBOARD, "u", WANTED), found)
    assert (change.kind, change.uid) == (Kind.DASHBOARD, "u")
    return change.action, change.differences


def test_what_is_not_there_is_made() -> None:
    assert change_for(None) == (Action.CREATE, ())


def test_what_is_as_wanted_is_left_alone_whatever_grafana_adds() -> None:
    panels = [{**panel, "pluginVersion": "13.0"} for panel in WANTED["panels"]]  # type: ignore[dict-item]
    found = {**WANTED, "id": 7, "version": 3, "panels": panels}
    assert change_for(found) == (Action.NOTHING, ())


@pytest.mark.parametrize(
    ("found", "place"),
    [
        ({**WANTED, "title": "mine"}, "title"),
        ({"uid": "u", "panels": WANTED["panels"]}, "title"),
        (
            {**WANTED, "panels": [{"id": 1, "title": "a"}, {"id": 2, "title": "?"}]},
            "panels[1].title",
        ),
        ({**WANTED, "panels": [{"id": 1, "title": "a"}]}, "panels"),
        ({**WANTED, "panels": None}, "panels"),
    ],
)
def test_a_difference_is_told_with_its_place(found: Any, place: str) -> None:
    assert change_for(found) == (Action.UPDATE, (place,))
