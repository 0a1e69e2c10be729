"""What Tagtrail uses inside other packages is missed by name, with the next step."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import opentelemetry.context
import opentelemetry.trace.propagation
import pytest
import uvicorn.protocols.http.httptools_impl
import uvicorn.protocols.websockets.websockets_sansio_impl
from ray._private import services, worker
from ray.experimental import internal_kv
from ray.util.metrics import Gauge

from observability.instrument import otel_internals, ray_internals
from observability.instrument.foreign import TESTED, ForeignNameError, take
from serve import ray_internals as serve_internals
from serve.command import cluster
from serve.controller.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
OWNERS = {
    "observability/instrument/ray_internals.py",
    "observability/instrument/otel_internals.py",
    "serve/ray_internals.py",
    "serve/replica/uvicorn_internals.py",
}


def reload_otel() -> None:
    importlib.reload(otel_internals)


@pytest.mark.parametrize(
    ("package", "module", "name", "use"),
    [
        ("ray", worker, "_global_node", ray_internals.ray_node),
        ("ray", worker, "print_to_stdstream", serve_internals.print_to_stderr_only),
        ("ray", services, "find_gcs_addresses", serve_internals.find_clusters),
        ("ray", internal_kv, "_internal_kv_get", lambda: Checkpoint("c").read()),
        ("ray", internal_kv, "_internal_kv_del", lambda: Checkpoint("c").delete()),
        ("opentelemetry-api", opentelemetry.trace.propagation, "_SPAN_KEY", reload_otel),
        (
            *("opentelemetry-api", opentelemetry.context),
            *("_SUPPRESS_INSTRUMENTATION_KEY", reload_otel),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_that_is_gone_is_named_with_what_is_installed_what_was_tested_and_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    module: ModuleType,
    name: str,
    use: Callable[[], object],
) -> None:
    monkeypatch.delattr(module, name)
    with pytest.raises(ForeignNameError) as caught:
        use()
    check(str(caught.value), package, f"{module.__name__}.{name}")


def check(message: str, package: str, name: str) -> None:
    installed = re.escape(importlib.metadata.version(package))
    tested = re.escape(TESTED[package])
    assert re.search(
        rf"^{package} {installed} has no {re.escape(name)}, which Tagtrail needs to .*\. It was "
        rf"tested with {package} {tested}: pip install '{package}=={tested}'",
        message,
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (uvicorn.protocols.http.httptools_impl, "HttpToolsProtocol"),
        (uvicorn.protocols.http.httptools_impl, "RequestResponseCycle"),
        (uvicorn.protocols.websockets.websockets_sansio_impl, "WebSocketsSansIOProtocol"),
    ],
)
def test_a_replica_says_so_when_uvicorns_protocol_is_gone(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str
) -> None:
    monkeypatch.delattr(module, name)
    monkeypatch.delitem(sys.modules, "serve.replica.uvicorn_internals", raising=False)
    with pytest.raises(ForeignNameError) as caught:
        importlib.import_module("serve.replica.uvicorn_internals")
    check(str(caught.value), "uvicorn", f"{module.__name__}.{name}")


def test_the_export_of_metrics_tells_that_rays_own_are_kept_elsewhere() -> None:
    gauge = Gauge("a_gauge_of_the_tests", "for tests")
    del gauge._metric
    with pytest.raises(ForeignNameError) as caught:
        ray_internals.record_metric(gauge, 1.0, {})
    check(str(caught.value), "ray", "Gauge._metric")


def test_a_command_goes_on_when_only_its_output_may_be_less_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(worker, "print_to_stdstream")
    with pytest.raises(ConnectionError):
        cluster.reach_ray("127.0.0.1:9")
    assert "Warning: ray " in capsys.readouterr().err


def test_a_module_that_is_gone_is_named_too() -> None:
    with pytest.raises(ForeignNameError, match=r"has no ray\._private\.nowhere\.thing, which"):
        take("ray", "ray._private.nowhere", "thing", "be tested")


def test_nothing_else_looks_inside_other_packages() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("serve", "observability")
        for path in (ROOT / folder).rglob("*.py")
        if str(path.relative_to(ROOT)) not in OWNERS
        for node in ast.walk(ast.parse(path.read_text()))
        if looks_inside(node)
    ]
    assert wrong == []


def looks_inside(node: Any) -> bool:
    """Whether a private name is imported from elsewhere, or `._metric` asked for."""
    if isinstance(node, ast.ImportFrom):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        is_ours = names[0] in ("serve", "observability", "__future__")
        return not is_ours and any(name.startswith("_") for name in names)
    if isinstance(node, ast.Import):
        return any("._" in alias.name for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in {"_metric", "_private", "_global_node"}


@pytest.mark.parametrize(
    "text", ["from ray._private import a", "from a.b import _c", "import a._b", "a._metric"]
)
def test_a_look_inside_would_be_found(text: str) -> None:
    assert any(map(looks_inside, ast.walk(ast.parse(text))))


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split(";")[0].strip().split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in TESTED} == TESTED
