"""What came back of one HTTP request, as a frozen record; nothing is raised. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REFUSED = "nothing listens there"
TOO_LATE = "no answer in time"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or why there is none.

    Attributes:
        url: who was asked.
        status: HTTP status; 0 without an answer.
        text: the answer's body.
        headers: the answer's, names in lower case.
        error: why there is no answer; "" with one.
    """

    url: str
    status: int = 0
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether it is a success, 2xx."""
        return 200 <= self.status < 300

    @property
    def seen(self) -> str:
        """What came back, for people: `503 Ingester not ready`."""
        return self.error or f"{self.status} {' '.join(self.text.split())[:160]}".strip()

    def json(self) -> Any:
        """The body as data; None for what is no JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def get(self, *path: str) -> Any:
        """What the JSON object has at a path of keys; None for what is not there."""
        found = self.json()
        for key in path:
            if not isinstance(found, dict):
                return None
            found = found.get(key)
        return found


NOT_ASKED = Reply("", error="not asked")
