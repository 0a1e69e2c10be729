"""Which traces are exported: the samplers of `OTEL_TRACES_SAMPLER`. Pure.

Decided once for each step from the trace id and the caller's decision, by the same rules as
OpenTelemetry's SDK, so that all steps of a trace come to the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

_ALL = 2**64
PARENT_BASED = "parentbased_"
SAMPLERS = ("always_on", "always_off", "traceidratio")
"""Each of them also with `parentbased_` before it."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Decides.

    Attributes:
        bound: traces are exported whose id's last 64 bits are below it.
        follows_parent: a caller's decision goes before that.
    """

    bound: int = _ALL
    follows_parent: bool = True

    def decide(self, trace_id: str, parent: bool | None) -> bool:
        """Whether a step of a trace is exported. `parent`: its caller's decision, if it has one."""
        if parent is not None and self.follows_parent:
            return parent
        return self.bound == _ALL or int(trace_id[16:], 16) < self.bound


def make_sampler(name: str, argument: str) -> Sampler:
    """The sampler of that name.

    Args:
        name: one of SAMPLERS, perhaps with `parentbased_` before it.
        argument: the share for `traceidratio`, 0 to 1.

    Raises:
        ValueError: no sampler has that name, or the share is none.
    """
    root = name.removeprefix(PARENT_BASED)
    if root not in SAMPLERS:
        raise ValueError(f"There is no sampler {name!r}. There are: {', '.join(SAMPLERS)}.")
    share = {"always_on": 1.0, "always_off": 0.0}.get(root)
    if share is None:
        share = float(argument or 1)
        if not 0 <= share <= 1:
            raise ValueError(f"A sampler's share is from 0 to 1, not {argument}.")
    return Sampler(round(share * _ALL), name.startswith(PARENT_BASED))
