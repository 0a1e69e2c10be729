"""The file that tells Prometheus where the metrics pages are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from serve.controller.discovery import MetricsTargets, reachable_pages
from serve.controller.observed import IngressView


@pytest.fixture
def targets(tmp_path: Path) -> MetricsTargets:
    return MetricsTargets(str(tmp_path), "abcdef:SERVE_CONTROLLER_ACTOR")


def read(targets: MetricsTargets) -> object:
    return json.loads(Path(targets.path).read_text())


def test_the_file_has_the_form_that_prometheus_reads(targets: MetricsTargets) -> None:
    targets.tell(["10.0.0.2:9101", "10.0.0.1:9101"])
    assert read(targets) == [
        {"labels": {"job": "tagtrail"}, "targets": ["10.0.0.1:9101", "10.0.0.2:9101"]}
    ]
    assert Path(targets.path).name == "tagtrail_metrics_abcdef_SERVE_CONTROLLER_ACTOR.json"


def test_it_is_written_when_they_change_only(targets: MetricsTargets) -> None:
    targets.tell([])
    assert not Path(targets.path).exists()
    targets.tell(["a:1"])
    before = Path(targets.path).stat().st_ino
    targets.tell(["a:1"])
    assert Path(targets.path).stat().st_ino == before
    targets.tell([])
    assert read(targets) == [{"labels": {"job": "tagtrail"}, "targets": []}]


def test_nothing_is_left_of_it(targets: MetricsTargets, tmp_path: Path) -> None:
    targets.tell(["a:1"])
    targets.remove()
    assert list(tmp_path.iterdir()) == []
    targets.remove()


def test_a_folder_that_takes_nothing_is_told_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ray_logger = logging.getLogger("ray.serve")
    ray_logger.addHandler(caplog.handler)
    try:
        MetricsTargets(str(tmp_path / "none"), "c").tell(["a:1"])
    finally:
        ray_logger.removeHandler(caplog.handler)
    assert "can't be told where the metrics pages are" in caplog.text


@pytest.mark.parametrize(
    ("page", "here", "from_elsewhere"),
    [
        ("127.0.0.1:9101", ["127.0.0.1:9101"], []),
        ("localhost:9101", ["localhost:9101"], []),
        ("0.0.0.0:9101", ["10.0.0.1:9101"], ["10.0.0.1:9101"]),
        ("10.0.0.1:9101", ["10.0.0.1:9101"], ["10.0.0.1:9101"]),
        ("metrics.example:9101", ["metrics.example:9101"], ["metrics.example:9101"]),
        ("", [], []),  # there is none
    ],
)
def test_a_page_is_told_of_where_it_can_be_reached(
    page: str, here: list[str], from_elsewhere: list[str]
) -> None:
    view = IngressView("node-1", "0.0.0.0:8000", page, "10.0.0.1")
    assert list(reachable_pages([view], "node-1")) == here
    assert list(reachable_pages([view], "node-2")) == from_elsewhere
