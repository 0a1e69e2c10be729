"""A stranger is logged once, however often it knocks."""

from __future__ import annotations

import logging

import pytest

from serve.strangers import Strangers


def test_a_peers_first_refusal_is_a_warning_and_its_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strangers = Strangers("A request", logging.getLogger("tests.strangers"))
    caplog.set_level(logging.DEBUG, "tests.strangers")

    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2"):
        strangers.note(peer, "no token")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "A request from 10.0.0.1 was refused: no token"),
        ("DEBUG", "A request from 10.0.0.1 was refused: no token"),
        ("WARNING", "A request from 10.0.0.2 was refused: no token"),
    ]
