"""Which methods of a backend an HTTP request may name, in `X-Serve-Call-Method`. Pure.

None but `__call__`, unless the backend offers it: with `@serve.expose`, or by name in
`BackendConfig.exposed_methods`. Whoever can send a request is no reason to trust it with the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

CALL = "__call__"
NEVER = ("reconfigure", "check_health")
"""What Tagtrail itself calls: never a client's to call."""

_MARK = "_serve_exposed"


def expose(method: F) -> F:
    """Let HTTP requests name this method in `X-Serve-Call-Method`; handles need no permission.

    Raises:
        ValueError: Tagtrail itself calls the method, or its name begins with `_`.

    Example:
        >>> class Model:
        ...     def __call__(self, request):
        ...         return "predicted"
        ...     @serve.expose
        ...     def explain(self, request):
        ...         return "because"
    """
    check_exposable(method.__name__, "@serve.expose")
    setattr(method, _MARK, True)
    return method


def is_exposed(method: object) -> bool:
    """Whether a method is marked with `expose`."""
    return getattr(method, _MARK, False) is True


def check_exposable(name: str, where: str) -> None:
    """Refuse a method that no client may call.

    Args:
        name: of the method.
        where: what names it, for the error.

    Raises:
        ValueError: Tagtrail itself calls it, or it is not public.
    """
    if is_exposable(name):
        return
    if name in NEVER:
        raise ValueError(
            f"{where} names {name!r}, which Tagtrail itself calls: a client must not. Expected a "
            "method of your own. To let clients do it all the same, expose one that calls it."
        )
    raise ValueError(
        f"{where} names {name!r}. Expected a method whose name does not begin with '_'."
    )


def is_exposable(name: str) -> bool:
    """Whether a method of that name may be a client's to call."""
    is_public = name.isidentifier() and not name.startswith("_")
    return name == CALL or (is_public and name not in NEVER)
