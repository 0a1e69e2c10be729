"""The names of `serve`: all there, and loaded when the first one is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

import serve
import serve.public as public

ROOT = Path(__file__).parents[2]


EACH_IN_A_FORK = """
import os, sys, traceback
import ray  # once: it takes longest, and is not what is looked at
for code in sys.argv[1:]:
    assert not any(name.partition(".")[0] == "serve" for name in sys.modules)
    pid = os.fork()
    if not pid:
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            print(code, traceback.format_exc(), sep="\\n", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        sys.exit(1)
"""


def run(code: str, *args: str) -> None:
    """In an interpreter where nothing of `serve` is loaded yet."""
    result = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_each_public_name_is_there_and_listed() -> None:
    for name in public.__all__:
        assert getattr(serve, name) is getattr(public, name)
    assert serve.__all__ == public.__all__
    assert set(public.__all__) <= set(dir(serve))


def test_a_function_takes_what_the_clients_method_of_its_name_takes() -> None:
    # `Client` is public too: its methods are what the functions call, defaults included.
    names = [name for name in public.__all__ if hasattr(serve.Client, name)]
    assert len(names) == 12
    for name in names:
        of_function = inspect.signature(getattr(serve, name))
        of_method = inspect.signature(getattr(serve.Client, name))
        _, *parameters = of_method.parameters.values()
        assert of_method.replace(parameters=parameters) == of_function, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'serve' has no attribute 'create_backnd'"):
        serve.create_backnd  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(serve, "__nothing__")


@pytest.mark.slow
def test_the_package_itself_loads_no_ray() -> None:
    run("import serve, sys; assert not {'ray', 'pydantic', 'serve.public'} & set(sys.modules)")


@pytest.mark.slow
def test_a_driver_and_the_controller_load_no_server() -> None:
    # Ray loads the modules of the actors that a process has handles to.
    run(
        "import serve.public, serve.controller.actor, serve.replica.actor, sys\n"
        "servers = {'uvicorn', 'websockets', 'prometheus_client', 'serve.ingress.actor'}\n"
        "assert not servers & set(sys.modules), servers & set(sys.modules)"
    )


@pytest.mark.slow
def test_ingress_is_the_function_whatever_is_loaded_first() -> None:
    firsts = (
        "from serve import ingress",
        "import serve.ingress.names",
        "import serve.ingress.actor, serve.replica.actor, serve.controller.actor",
    )
    look = (
        "import serve, serve.ingress.process\n"
        "from serve import ingress\n"
        "from serve.asgi import ingress as function\n"
        "assert serve.ingress is ingress is function, serve.ingress\n"
    )
    run(EACH_IN_A_FORK, *(f"{first}\n{look}" for first in firsts))


@pytest.mark.slow
def test_each_way_of_importing_works_as_the_first_one() -> None:
    run(
        EACH_IN_A_FORK,
        "from serve import start, BackendConfig; BackendConfig()",
        "from serve import *; assert callable(start) and callable(ingress)",
        "import serve; assert 'start' in dir(serve) and 'start' in serve.__all__",
        "import serve; assert serve.start and serve.client.Client is serve.Client",
    )


@pytest.mark.slow
def test_a_function_that_names_serve_travels_by_value() -> None:
    def ask() -> object:
        return serve.get_request_context

    ask.__module__ = "__main__"
    packed = cloudpickle.dumps(ask)
    run(f"import pickle; assert pickle.loads({packed!r})().__name__ == 'get_request_context'")
