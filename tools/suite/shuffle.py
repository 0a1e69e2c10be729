"""A pytest plugin: the tests in an order that follows from the number `--shuffle` gives.

The files in random order, and the tests of each file; those of one file stay together, so that
what a file shares is made once. Tests marked `in_order` keep theirs.
"""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="number that orders the tests")


@pytest.hookimpl(trylast=True)  # no other order comes after it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put them in that order."""
    if (seed := config.getoption("--shuffle")) is None:
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    order = random.Random(seed)
    names = list(files)
    order.shuffle(names)
    for name in names:
        if not any(item.get_closest_marker("in_order") for item in files[name]):
            order.shuffle(files[name])
    items[:] = [item for name in names for item in files[name]]
