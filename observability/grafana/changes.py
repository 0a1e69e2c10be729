"""What has to change in a Grafana, from what is wanted and what is there. Pure.

Only what we say is compared: Grafana adds fields of its own to what it keeps, and what somebody has
added there stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

Content = Mapping[str, Any]
"""An object as Grafana's API has it."""


class Kind(str, Enum):
    """What is provisioned. In the order in which they need each other."""

    DATA_SOURCE = "data source"
    FOLDER = "folder"
    DASHBOARD = "dashboard"


class Action(str, Enum):
    """What has to be done."""

    CREATE = "create"
    UPDATE = "update"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Item:
    """One object.

    Attributes:
        kind: what it is.
        uid: its uid in Grafana.
        content: what we say of it.
    """

    kind: Kind
    uid: str
    content: Content


@dataclass(frozen=True, slots=True)
class Change:
    """What has to be done with one object.

    Attributes:
        kind: what it is.
        uid: its uid.
        action: what has to be done.
        differences: places that differ, as `panels[3].title`.
    """

    kind: Kind
    uid: str
    action: Action
    differences: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def compare(item: Item, found: Content | None) -> Change:
    """What has to be done so that Grafana has an object as we say.

    Args:
        item: what is wanted.
        found: what Grafana has under its uid; None: nothing.
    """
    if found is None:
        return Change(item.kind, item.uid, Action.CREATE)
    places = tuple(differences(item.content, found))
    return Change(item.kind, item.uid, Action.UPDATE if places else Action.NOTHING, places)


def differences(wanted: object, found: object, place: str = "") -> Iterator[str]:
    """Places where what is found is not what is wanted."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            yield from differences(value, found.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(ours, theirs, f"{place}[{number}]")
    elif wanted != found:
        yield place
