"""A backend's definition: the callable and its arguments, what kind it is, how it travels."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import threading
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ray import cloudpickle
from starlette.datastructures import State

from serve.batching import accepts_batches
from serve.config import Traits
from serve.outline import Outline, outline

ASGI_APP = "_serve_asgi_app"
"""Attribute that `serve.ingress(app)` puts on a class: the application its replicas answer with."""


def _reduce_state(state: State) -> tuple[type[State], tuple[Any, ...]]:
    # `app.state` of every Starlette and FastAPI application. It can be pickled but not read again:
    # while its contents are not there yet, its __getattr__ looks for them without end.
    return State, (vars(state)["_state"],)


def _reduce_lock(lock: Any) -> tuple[Callable[[], Any], tuple[()]]:
    # FastAPI holds one for each router that is included. A free lock is as good as a new one.
    if lock.locked():
        raise TypeError("A lock that is held cannot travel to a replica.")
    return threading.Lock, ()


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc] # Ray's annotations are left out
    dispatch_table: ClassVar[ChainMap[type, Any]] = ChainMap(
        {State: _reduce_state, type(threading.Lock()): _reduce_lock},
        cloudpickle.CloudPickler.dispatch_table,
    )


@dataclass(frozen=True)
class Definition:
    """What a replica builds.

    Attributes:
        target: function, class, ASGI application, or import path `module.attribute`.
        init_args: positional arguments of the class's constructor.
        init_kwargs: its named arguments.
    """

    target: Any
    init_args: tuple[Any, ...] = ()
    init_kwargs: dict[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The definition as bytes; code of the calling script travels by value."""
        file = io.BytesIO()
        _Pickler(file).dump((self.target, self.init_args, self.init_kwargs))
        return file.getvalue()

    @classmethod
    def unpack(cls, packed: bytes) -> Definition:
        """The definition from its bytes, an import path resolved."""
        target, init_args, init_kwargs = cloudpickle.loads(packed)
        resolved = import_path(target) if isinstance(target, str) else target
        return cls(resolved, init_args, init_kwargs)

    def outline(self) -> Outline | None:
        """What may be told of it; None for a script's own code."""
        if not isinstance(self.target, str):
            return None
        return outline(self.target, self.init_args, self.init_kwargs)

    def inspect(self) -> Traits:
        """What kind of backend it makes. Raises as `inspect_target` does."""
        return inspect_target(self.target, (*self.init_args, *self.init_kwargs.values()))


def digest_of(packed: bytes) -> str:
    """The name under which a packed definition is kept: equal ones have one."""
    return hashlib.sha256(packed).hexdigest()


def import_path(path: str) -> Any:
    """The object at `module.attribute`. ImportError names what is missing."""
    module_name, _, attribute = path.rpartition(".")
    if not module_name:
        raise ImportError(f"Import path '{path}' has no dot. Expected 'module.attribute'.")
    module = importlib.import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ImportError(f"Module '{module_name}' has no attribute '{attribute}'.") from None


def inspect_target(target: Any, init_args: tuple[Any, ...]) -> Traits:
    """What kind of backend a target makes.

    Raises:
        TypeError: it is neither a function, a class, an ASGI application nor an import path.
        ValueError: constructor arguments for something that has no constructor.
    """
    if isinstance(target, str):  # looked at in the replica only: the caller may not have the module
        return Traits(target, is_function=False, is_blocking=False, accepts_batches=True)
    if inspect.isclass(target):
        return _inspect_class(target)
    if inspect.isfunction(target):
        traits = Traits(
            target.__name__,
            is_blocking=not inspect.iscoroutinefunction(target),
            accepts_batches=accepts_batches(target),
        )
    elif is_asgi_app(target):
        traits = Traits(type(target).__name__, is_blocking=False, is_asgi=True)
    else:
        raise TypeError(
            "Backend must be a function, a class, an ASGI application or an import path, it is "
            f"{type(target).__name__}: {target!r}. Give the class and its arguments, not an "
            "instance: serve.create_backend(tag, Class, *init_args)."
        )
    if init_args:
        raise ValueError(
            f"init_args not supported for function backend. '{traits.name}' has no constructor; "
            f"got {len(init_args)} init_args. Use a class, or functools.partial inside a function."
        )
    return traits


def is_asgi_app(target: Any) -> bool:
    """Whether an object that is no class takes `(scope, receive, send)`."""
    call = _find_call(type(target))
    if not inspect.iscoroutinefunction(call) and not hasattr(target, "router"):
        return False
    return call is not None and _parameter_count(call) == 4


def takes_request(function: Callable[..., Any]) -> bool:
    """Whether a handler wants the request; the tutorial's own `hello()` takes none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins have no signature
        return True
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return any(parameter.kind in positional for parameter in parameters)


def _inspect_class(target: type) -> Traits:
    if getattr(target, ASGI_APP, None) is not None:
        return Traits(target.__name__, is_function=False, is_blocking=False, is_asgi=True)
    call = _find_call(target)
    return Traits(
        target.__name__,
        is_function=False,
        is_blocking=not inspect.iscoroutinefunction(call),
        accepts_batches=accepts_batches(target) or accepts_batches(call),
    )


def _find_call(cls: type) -> Any:
    """The `__call__` that instances of a class have, or None."""
    return next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)


def _parameter_count(call: Callable[..., Any]) -> int:
    try:
        return len(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        return 0
