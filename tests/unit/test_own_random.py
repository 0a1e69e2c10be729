"""A user's `random.seed(0)` changes nothing of ours, and what we draw changes nothing of theirs."""

from __future__ import annotations

import ast
import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from observability.instrument.context import new_ids
from observability.instrument.tracer import OwnIds
from serve.controller.broadcast import NEVER, Broadcast
from serve.ids import make_replica_tag, make_request_id
from serve.traffic import SPLIT_SCALE, split_number
from tests.unit.test_import_direction import TREES

INSTANCES = {"Random", "SystemRandom"}
"""What may be used of the module: numbers of one's own."""


def shared_numbers(tree: ast.AST) -> Iterator[int]:
    """Lines that use the functions of the module `random`, however they were imported."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "random"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            if {alias.name for alias in node.names} - INSTANCES:
                yield node.lineno
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in names
            and node.attr not in INSTANCES
        ):
            yield node.lineno


def test_nothing_uses_the_numbers_that_all_code_of_a_process_shares() -> None:
    wrong = [f"{name}:{line}" for name, tree in TREES.items() for line in shared_numbers(tree)]
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    [
        "import random\nrandom.random()",
        "import random as r\nr.choice([1])",
        "import random\nf = random.uniform",
        "from random import randrange",
    ],
)
def test_a_use_of_them_would_be_found(text: str) -> None:
    assert len(list(shared_numbers(ast.parse(text)))) == 1


def test_numbers_of_ones_own_are_no_finding() -> None:
    own = "import random\nfrom random import Random\nmine = random.SystemRandom()\nmine.random()"
    assert list(shared_numbers(ast.parse(own))) == []


def span_ids() -> tuple[int, int]:
    tracer = TracerProvider(id_generator=OwnIds(), shutdown_on_exit=False).get_tracer("user")
    context = tracer.start_span("own").get_span_context()
    return context.trace_id, context.span_id


@pytest.mark.parametrize(
    "draw",
    [
        lambda: [split_number(None) for _ in range(4)],
        lambda: make_replica_tag("b"),
        make_request_id,
        new_ids,
        span_ids,
        lambda: asyncio.run(Broadcast().listen("", {"a": NEVER}, 0)),
    ],
)
def test_what_is_drawn_after_the_same_seed_differs(draw: Callable[[], object]) -> None:
    drawn = []
    for _ in range(2):
        random.seed(0)
        drawn.append(draw())
    assert drawn[0] != drawn[1]


def test_a_split_leaves_the_users_numbers_as_they_are() -> None:
    random.seed(0)
    expected = random.random()
    random.seed(0)
    assert 0 <= split_number(None) < SPLIT_SCALE
    assert random.random() == expected
