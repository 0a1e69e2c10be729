"""An ingress that can't apply what the controller says: who hears of it, and what goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import serve
from serve.command.tables import print_status
from serve.status import describe
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import run_folders, wait_until
from tests.integration.records import Record, read_records
from tests.integration.series import page, total

FAILURES = "ray_serve_update_failures_total"


def who() -> str:
    return "up"


def status() -> dict[str, Any]:
    return describe(serve.connect().status(), "")


def failures() -> float:
    return total(page(), FAILURES, listener="ingress")


@pytest.fixture
def obstacle(shared_instance: Instance) -> Path:
    """Where the ingress writes its next configuration; what is in the way there makes it fail."""
    (folder,) = run_folders(shared_instance.port)
    return folder / "candidate.cfg.part"


def complaints() -> list[Record]:
    """What the session's ingresses have said of what they can't apply."""
    return read_records(
        lambda record: "can't be applied" in record.get("message", ""), name="ingress"
    )


def test_what_an_ingress_cannot_apply_is_told_everywhere_and_tried_again(
    deploy: Deploy, shared_instance: Instance, obstacle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = deploy(who, route="/before")
    before, earlier = failures(), complaints()
    obstacle.mkdir()
    try:
        with pytest.raises(serve.RayServeException, match=r"can't apply it: .*IsADirectoryError"):
            serve.create_endpoint("late", backend=name, route="/late")
        described = status()
        (ingress,) = described["ingresses"]
        assert "IsADirectoryError" in ingress["refused"]
        assert not described["healthy"]
        print_status(described)
        shown = capsys.readouterr().out
        assert "can't apply the latest change" in shown
        assert "IsADirectoryError" in shown
        wait_until(lambda: failures() >= before + 3)
        assert shared_instance.http.get("/before").text == "up"  # what was applied stays
        assert serve.get_handle("late").call().result(60) == "up"  # others are not held up
    finally:
        obstacle.rmdir()
        wait_until(lambda: not status()["ingresses"][0]["refused"])
        late = shared_instance.http.get("/late").text
        serve.delete_endpoint("late")
    assert late == "up"
    assert status()["healthy"]
    assert [record["level"] for record in complaints() if record not in earlier] == ["ERROR"]
