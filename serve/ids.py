"""Tags and ids: how they are made and what counts as well-formed. Standard library only."""

from __future__ import annotations

import random
import re
import secrets
import string
from typing import NamedTuple

REQUEST_ID_PATTERN = r"[A-Za-z0-9_.:-]{1,128}"

_system_random = random.SystemRandom()
_request_id = re.compile(REQUEST_ID_PATTERN)


def random_letters(count: int = 6) -> str:
    """`count` letters of a-z and A-Z, with repetition."""
    return "".join(_system_random.choices(string.ascii_letters, k=count))


def make_replica_tag(backend_tag: str) -> str:
    """A new replica tag, `<backend tag>#<6 letters>`."""
    return f"{backend_tag}#{random_letters()}"


def make_request_id() -> str:
    """A new request id: 32 lower-case hexadecimal digits."""
    return secrets.token_hex(16)


def is_request_id(text: str) -> bool:
    """Whether a client's request id may be taken over as it is."""
    return _request_id.fullmatch(text) is not None


NAMESPACE = "tagtrail"
"""Ray namespace of every actor and checkpoint, so that they are found from any driver."""

DETACHED_CONTROLLER = "SERVE_CONTROLLER_ACTOR"
"""Name of the controller of the one detached instance of a cluster."""


def make_controller_name(detached: bool) -> str:
    """The controller's actor name; a non-detached instance gets a random one."""
    return DETACHED_CONTROLLER if detached else f"{random_letters()}:{DETACHED_CONTROLLER}"


def replica_actor_name(controller_name: str, replica_tag: str) -> str:
    """`<controller>:<backend>#<6 letters>`."""
    return f"{controller_name}:{replica_tag}"


def ingress_actor_name(controller_name: str, node_id: str) -> str:
    """`<controller>:SERVE_PROXY_ACTOR-<node id>`."""
    return f"{controller_name}:SERVE_PROXY_ACTOR-{node_id}"


class ActorName(NamedTuple):
    """What an actor's name says: whose it is, and which replica or the ingress of which node.

    Attributes:
        controller_name: of its instance.
        replica_tag: "": it is an ingress.
        node_id: "": it is a replica.
    """

    controller_name: str
    replica_tag: str = ""
    node_id: str = ""


_actor_name = re.compile(  # tags may hold any character, node ids hold no "#"
    rf"(?P<controller>(?:[A-Za-z]{{6}}:)?{DETACHED_CONTROLLER}):"
    r"(?:(?P<tag>.+#[A-Za-z]{6})|SERVE_PROXY_ACTOR-(?P<node>.+))"
)


def parse_actor_name(name: str) -> ActorName | None:
    """The inverse of `replica_actor_name` and `ingress_actor_name`; None: it is neither's."""
    match = _actor_name.fullmatch(name)
    if match is None:
        return None
    return ActorName(match["controller"], match["tag"] or "", match["node"] or "")
