"""The floor plan, held by the imports: which room may know which, and what pure files may not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PURE = [
    "observability.catalog",
    "observability.doctor.agents",
    "observability.doctor.checks",
    "observability.doctor.counted",
    "observability.doctor.entrance",
    "observability.doctor.facts",
    "observability.doctor.findings",
    "observability.doctor.reply",
    "observability.doctor.scrape",
    "observability.doctor.scraped",
    "observability.doctor.show",
    "observability.doctor.shown",
    "observability.doctor.stores",
    "observability.fields",
    "observability.grafana.backend",
    "observability.grafana.boards",
    "observability.grafana.canary",
    "observability.grafana.changes",
    "observability.grafana.overview",
    "observability.grafana.pipeline",
    "observability.grafana.records",
    "observability.grafana.replica",
    "observability.grafana.request",
    "observability.instrument.access",
    "observability.instrument.context",
    "observability.instrument.exposition",
    "observability.instrument.encode",
    "observability.instrument.logging_config",
    "observability.instrument.numbers",
    "observability.instrument.plain",
    "observability.instrument.retention",
    "observability.instrument.sampling",
    "observability.instrument.traceparent",
    "observability.instrument.tracing_config",
    "observability.loki.entries",
    "observability.loki.logql",
    "observability.loki.pages",
    "observability.loki.recent",
    "observability.loki.words",
    "observability.stack.choice",
    "observability.stack.records",
    "observability.stack.rendering",
    "observability.stack.services",
    "observability.stack.state",
    "observability.trail.live",
    "observability.trail.query",
    "observability.trail.show",
    "observability.trail.fate",
    "observability.trail.step",
    "observability.trail.tree",
    "serve.app.differences",
    "serve.app.places",
    "serve.app.plan",
    "serve.app.read",
    "serve.app.records",
    "serve.app.schema",
    "serve.app.spec",
    "serve.app.steps",
    "serve.call",
    "serve.config",
    "serve.context",
    "serve.controller.figures",
    "serve.controller.goal",
    "serve.controller.health",
    "serve.controller.ledger",
    "serve.controller.observed",
    "serve.controller.publish",
    "serve.controller.reconcile",
    "serve.errors",
    "serve.exposure",
    "serve.ids",
    "serve.handle.policy",
    "serve.ingress.figures",
    "serve.ingress.loglines",
    "serve.ingress.maps",
    "serve.ingress.names",
    "serve.ingress.plan",
    "serve.ingress.preference",
    "serve.ingress.records",
    "serve.ingress.render",
    "serve.routes",
    "serve.ingress.strays",
    "serve.ingress_token",
    "serve.outline",
    "serve.records",
    "serve.replica.answers",
    "serve.traffic",
    "serve.transport.auth",
    "serve.transport.failures",
    "serve.transport.frames",
    "serve.validate",
]
"""They decide, others act: the world comes in as arguments. What they import of ours is pure."""

IMPURE = {
    "asyncio",
    "os",
    "ray",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uvicorn",
}

NOT_THE_CLUSTER = {"ray.cloudpickle"}
"""Ray's wheel carries it, but it is a pickler and nothing else."""

COMMANDS = {
    "serve.command.demo",
    "serve.command.deploy",
    "serve.command.doctor",
    "serve.command.doctor_facts",
    "serve.command.present",
    "serve.command.sources",
    "serve.command.grafana",
    "serve.command.stack",
    "serve.command.top",
}
"""What people type: it shows the trail, so it may know the whole toolkit."""

SETTINGS = {"serve.settings", "observability.settings"}
"""The two files that read the environment."""


LOADERS = {"import_module", "__import__", "load_module"}

CLICK_READS = {"GRAFANA_URL", "GRAFANA_TOKEN"}
"""Variables of another program that its users have set already. Ours are in the settings."""

LONG_MODULES = {
    "serve.api": "one function for each name that people call, and their docstrings",
    "serve.controller.actor": "one method for each call that a controller answers",
    "serve.controller.executor": "one method for each action",
    "serve.controller.goal": "one function for each way in which a goal changes",
    "serve.handle.registry": "what a process and each of its loops know is told in one place",
    "serve.ingress.render": "one document, whose rules are read in HAProxy's order",
}
"""Modules over 300 lines, and why."""

LONG_FUNCTIONS = {
    "serve.command.doctor._examine": "the stations in their order",
}
"""Functions over 50 lines, and why."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in ("serve", "observability")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in SOURCES.items()}


def imports_of(name: str) -> Iterator[tuple[str, int]]:
    """(imported module, line), also those in functions and under TYPE_CHECKING."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (base if base in SOURCES and full not in SOURCES else full), node.lineno


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


GRAPH = {
    name: {module for module, _ in imports_of(name) if module in SOURCES and module != name}
    for name in SOURCES
}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def environment_reads(tree: ast.AST) -> list[int]:
    """Lines that name `os.environ` or `os.getenv`, however they were imported."""
    names = {"environ", "environb", "getenv", "getenvb"}
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.ImportFrom) and names & {alias.name for alias in node.names})
    ]


def names_of_ours(tree: ast.AST) -> list[int]:
    """Lines that load a module of ours by its name: an import that the graph would not show."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in LOADERS
        and any(
            isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and part.value.partition(".")[0] in ("serve", "observability")
            for argument in node.args
            for part in ast.walk(argument)
        )
    ]


def click_reads(tree: ast.AST) -> set[str]:
    """Environment variables that click reads for an option."""
    return {
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "envvar" and isinstance(keyword.value, ast.Constant)
    }


def test_there_are_sources_to_look_at() -> None:
    assert {"serve.api", "observability.instrument.context"} <= set(SOURCES)
    assert GRAPH["serve.context"] == {"observability.instrument.context", "serve.errors"}


def test_the_toolkit_never_imports_the_serving_core() -> None:
    wrong = [
        f"{name}:{line} imports {module}"
        for name in SOURCES
        if within(name, "observability")
        for module, line in imports_of(name)
        if within(module, "serve")
    ]
    assert wrong == []


def test_the_serving_core_imports_only_the_instruments_and_the_two_tables() -> None:
    allowed = ("observability.instrument", "observability.fields", "observability.catalog")
    wrong = [
        f"{name}:{line} imports {module}"
        for name in SOURCES
        if within(name, "serve")
        for module, line in imports_of(name)
        if within(module, "observability")
        and not any(within(module, room) for room in allowed)
        and name not in COMMANDS
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycles(GRAPH) == []


def test_a_circle_would_be_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_knows_no_ray_no_socket_no_thread_and_no_clock(name: str) -> None:
    wrong = [
        f"{name}:{line} imports {module}"
        for module, line in imports_of(name)
        if module.partition(".")[0] in IMPURE and module not in NOT_THE_CLUSTER
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_imports_only_pure_files_of_ours(name: str) -> None:
    assert sorted(GRAPH[name] - set(PURE)) == []


def test_only_the_settings_read_the_environment() -> None:
    wrong = [
        f"{name}:{line}"
        for name, tree in TREES.items()
        if name not in SETTINGS
        for line in environment_reads(tree)
    ]
    assert wrong == []


def test_a_read_of_the_environment_would_be_found() -> None:
    for text in ("os.environ['A']", "from os import getenv", "os.getenv('A')"):
        assert environment_reads(ast.parse(text)) == [1]


def test_inside_a_package_the_file_is_imported_and_not_the_packages_root() -> None:
    # The command and the demo are users of the public API like any other.
    users = {"serve.command.cli", "serve.command.demo", "serve.__main__"}
    wrong = [
        f"{name}:{line} imports {module}"
        for name in SOURCES
        if name not in users
        for module, line in imports_of(name)
        if module in ("serve", "observability")
    ]
    assert wrong == []


def test_no_module_of_ours_is_loaded_by_its_name() -> None:
    wrong = [f"{name}:{line}" for name, tree in TREES.items() for line in names_of_ours(tree)]
    assert wrong == []


def test_a_module_loaded_by_its_name_would_be_found() -> None:
    for text in ("importlib.import_module('serve.public')", "__import__(f'serve.{x}')"):
        assert names_of_ours(ast.parse(text)) == [1]


def test_click_reads_no_variable_of_ours() -> None:
    assert set().union(*(click_reads(tree) for tree in TREES.values())) == CLICK_READS


def test_modules_over_300_lines_have_a_reason() -> None:
    long = {name for name, path in SOURCES.items() if len(path.read_text().splitlines()) > 300}
    assert long == set(LONG_MODULES)


def test_functions_over_50_lines_have_a_reason() -> None:
    long = {
        f"{name}.{node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or node.lineno) - node.lineno >= 50
    }
    assert long == set(LONG_FUNCTIONS)
