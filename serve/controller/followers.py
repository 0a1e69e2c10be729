"""Which ingresses follow what was published last, and why one does not."""

from __future__ import annotations

from dataclasses import replace

from serve.controller.broadcast import Broadcast
from serve.controller.observed import Observed
from serve.controller.world import World
from serve.errors import RayServeException
from serve.records import INGRESS_KEY

FOLLOW_S = 60.0


class Followers:
    """The ingresses as listeners.

    Args:
        broadcast: what they listen to.
        world: has those that there are.
    """

    def __init__(self, broadcast: Broadcast, world: World) -> None:
        self._broadcast = broadcast
        self._world = world

    async def until_applied(self, timeout_s: float) -> bool:
        """Wait until every ingress that listens has applied the present table; whether all did.

        It ends early when one of them can't.
        """

        def listeners() -> set[str]:
            views = self._world.observed.ingresses.values()
            return {_listener(view.node_id) for view in views if view.address}

        return await self._broadcast.until_applied(listeners, INGRESS_KEY, timeout_s)

    async def until_followed(self) -> None:
        """As until_applied, for a change that is registered already.

        Raises:
            RayServeException: an ingress can't apply it. Quotes the reason.
            TimeoutError: one did not say anything within FOLLOW_S.
        """
        if await self.until_applied(FOLLOW_S):
            return
        for view in self.describe(self._world.observed).ingresses.values():
            if view.refused:
                node = view.node_address or view.node_id
                raise RayServeException(
                    f"The change is registered, but the ingress on node '{node}' can't apply it: "
                    f"{view.refused}. It tries again and serves what it had before; mend the "
                    "cause, then look at 'tagtrail status'."
                )
        raise TimeoutError(
            f"The change is registered, but not every ingress has taken it within {FOLLOW_S:g} s. "
            "'tagtrail status' shows the ingresses."
        )

    def describe(self, observed: Observed) -> Observed:
        """The world, with what each ingress can't apply."""
        ingresses = {
            node_id: replace(view, refused=self._refused_by(node_id))
            for node_id, view in observed.ingresses.items()
        }
        return replace(observed, ingresses=ingresses)

    def forget(self, node_id: str) -> None:
        """The ingress of a node is gone."""
        self._broadcast.forget(_listener(node_id))

    def _refused_by(self, node_id: str) -> str:
        return self._broadcast.refusals(_listener(node_id)).get(INGRESS_KEY, "")


def _listener(node_id: str) -> str:
    """Name under which an ingress listens."""
    return f"ingress/{node_id}"
