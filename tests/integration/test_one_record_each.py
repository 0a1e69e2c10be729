"""Ten thousand requests of mixed kinds: each has exactly one record, and it is what was seen."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.conftest import Instance
from tests.mixed.backends import deploy
from tests.mixed.run import Run, drive, settle
from tests.mixed.seen import table

pytestmark = pytest.mark.slow

REQUESTS = 10_000
SEED = 13


def test_each_request_has_one_record_that_says_what_its_client_saw(
    shared_instance: Instance,
) -> None:
    run = Run("mixed", SEED)
    deploy(run.name)

    asyncio.run(drive(run, shared_instance.port, REQUESTS))
    differences = settle(run)

    assert len(run.seen) == REQUESTS
    assert not differences, f"{len(differences)} differences:\n{table(differences)}"
