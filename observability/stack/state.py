"""What `stack up` has started, as a record that a later shell can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Started:
    """A program that was started.

    Attributes:
        name: of its service.
        pid: process id, and id of its session and process group.
        identity: when that process began: another one with this id has another.
        address: where it is reached.
        health_url: what is asked to see whether it is healthy.
        log: file with what it says.
    """

    name: str
    pid: int
    identity: str
    address: str
    health_url: str
    log: str


@dataclass(frozen=True, slots=True)
class State:
    """What was started from one folder.

    Attributes:
        started: in the order of start.
        ports: port of every name, as the files have them that these programs have read.
        ray_folder: likewise.
    """

    started: tuple[Started, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    ray_folder: str = ""


def encode(state: State) -> str:
    """The state as JSON."""
    return json.dumps(asdict(state), indent=2) + "\n"


def decode(text: str) -> State:
    """The state of a file's text. ValueError: it is none."""
    try:
        content = json.loads(text)
        started = tuple(Started(**item) for item in content["started"])
        return State(started, dict(content["ports"]), str(content["ray_folder"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no state of a stack: {error}") from None
