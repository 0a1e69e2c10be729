"""Two versions of a backend, for examples/app.yaml: the replicas import this module."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("ray")


class Counter:
    """Counts its requests."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.step = 1

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self.step = user_config["step"]

    def __call__(self, request: Any) -> dict[str, int]:
        self.count += self.step
        logger.info("count: %s", self.count)
        return {"count": self.count}


async def hello(request: Any) -> str:
    return f"hello {request.query_params.get('name', 'world')}"
