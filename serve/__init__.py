"""Tagtrail's serving core: backends, endpoints and handles on Ray, behind HAProxy.

The names are those of `serve.public`. They are loaded when the first one is asked for: the command
`tagtrail` needs none of them to print its help or to read a folder of segments, and Ray alone takes
half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve.public import *  # noqa: F403 - all its names, which it lists
    from serve.public import __all__ as __all__
else:  # unseen by type checkers: they would take any name for known
    # A package becomes an attribute of its parent when it is loaded, which happens once. So this
    # one is loaded now, and from here on the name is free for the function `ingress`.
    from serve import ingress

    del ingress

    def __getattr__(name: str) -> Any:
        if name == "__all__" or not name.startswith("__"):
            import serve.public as public

            globals().update({each: getattr(public, each) for each in ("__all__", *public.__all__)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module 'serve' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
