"""Records on their way: segments, a real agent, a real store, found again by what they carry.

VictoriaLogs and vlagent are built for these tests. Promtail and Alloy into Loki run when
`TAGTRAIL_LOKI_BIN` and `TAGTRAIL_PROMTAIL_BIN` or `TAGTRAIL_ALLOY_BIN` name their programs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve
from tests.integration.conftest import Instance
from tests.integration.pipelines import Loki, Pipeline, log_queries, make_pipeline, queries_of
from tests.integration.processes import ROOT, wait_until
from tests.integration.records import read_records

PAGE = ROOT / "docs" / "pipeline.md"
ARRIVAL_S = 60
INTO_LOKI = ["promtail", "alloy"]


@pytest.fixture(scope="module", params=["victoria", *INTO_LOKI])
def pipeline(
    request: pytest.FixtureRequest, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    made = make_pipeline(request.param, tmp_path_factory.mktemp(request.param), ray_folder)
    with made.running() as running:
        yield running


async def tell(request: Any) -> str:
    logging.getLogger("ray").info("Some info!")
    if request.query_params.get("fail"):
        raise ValueError("asked to")
    return await serve.get_handle("inner").call()


def answer_inner(request: Any) -> str:
    logging.getLogger("ray").warning("Inside")
    return "well"


@pytest.fixture(scope="module")
def told(shared_instance: Instance) -> Iterator[dict[str, Any]]:
    """A request that was answered, one that failed, and one that no endpoint is for."""
    for name, target in (("inner", answer_inner), ("my_backend", tell)):
        serve.create_backend(name, target, ray_actor_options={"num_cpus": 0})
        serve.create_endpoint(name, backend=name, route=f"/{name}")
    answers = {
        "well": shared_instance.http.get("/my_backend"),
        "failed": shared_instance.http.get("/my_backend?fail=1"),
        "lost": shared_instance.http.get("/nothing/there"),
    }
    assert [a.status_code for a in answers.values()] == [200, 500, 404]
    yield answers
    for name in ("my_backend", "inner"):
        serve.delete_endpoint(name)
        serve.delete_backend(name, force=True)


def test_a_request_is_found_by_its_id_with_all_that_was_said_for_it(
    told: dict[str, Any], pipeline: Pipeline
) -> None:
    answer = told["well"]
    request_id = answer.headers["X-Request-ID"]
    written = read_records(lambda record: record.get("request_id") == request_id)
    assert len(written) == 4  # two replicas, each with a line and an access record

    found = wait_until(lambda: full(pipeline.ask.find(request_id), len(written)), ARRIVAL_S)

    assert sorted(map(identity, found)) == sorted(map(identity, written))
    said_by = {r["backend"]: r["replica"] for r in found}
    assert said_by["my_backend"] == answer.headers["X-Serve-Replica"]
    assert {r["level"] for r in found} == {"INFO", "WARNING"}


def test_a_request_that_no_replica_saw_is_found_too(
    told: dict[str, Any], pipeline: Pipeline
) -> None:
    request_id = told["lost"].headers["X-Request-ID"]
    [record] = wait_until(lambda: pipeline.ask.find(request_id), ARRIVAL_S)
    assert (record["component"], record["error"]) == ("ingress", "not_found")


def test_the_time_of_an_entry_is_the_records_own(told: dict[str, Any], pipeline: Pipeline) -> None:
    written = read_records(
        lambda record: (
            record.get("backend") == "my_backend" and record.get("message") == "Some info!"
        )
    )
    expected = sorted((record["replica"], record["time"]) for record in written)
    found = wait_until(
        lambda: full(pipeline.ask.times("my_backend", "Some info!"), len(written)), ARRIVAL_S
    )
    assert sorted((replica, padded(time)) for replica, time in found) == expected


def test_every_question_of_the_docs_has_an_answer(told: dict[str, Any], pipeline: Pipeline) -> None:
    queries = queries_of(PAGE, pipeline.ask.language)
    assert len(queries) == 7
    request_id = told["well"].headers["X-Request-ID"]
    for query in queries:
        mine = query.replace("40c799f473f848788ff276cda0fdb245", request_id)
        wait_until(lambda mine=mine: pipeline.ask.answer(mine), ARRIVAL_S)


@pytest.mark.parametrize("pipeline", INTO_LOKI, indirect=True)
def test_every_log_query_of_the_dashboards_has_data(
    told: dict[str, Any], pipeline: Pipeline
) -> None:
    loki = pipeline.ask
    assert isinstance(loki, Loki)
    values = {
        "endpoint": "my_backend",
        "backend": "my_backend",
        "replica": told["well"].headers["X-Serve-Replica"],
        "request_id": told["well"].headers["X-Request-ID"],
        "__auto": "5m",
        "__range": "1h",
    }
    for query in log_queries(values):
        wait_until(lambda query=query: loki.answer(query), ARRIVAL_S)


def test_the_tutorials_query_finds_the_line_of_the_stderr_copy(
    told: dict[str, Any], pipeline: Pipeline
) -> None:
    lines = wait_until(lambda: pipeline.ask.lines_of_ray("backend=my_backend"), ARRIVAL_S)
    assert any("Some info! component=serve backend=my_backend replica=" in line for line in lines)


def full(found: list[Any], count: int) -> list[Any]:
    """What was found once it is as much as expected."""
    return found if len(found) >= count else []


def identity(record: dict[str, Any]) -> tuple[str, str]:
    return record["replica"], padded(record.get("time") or record["_time"])


def padded(time: str) -> str:
    """A time with the nine decimals that records have; stores leave zeros at the end out."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"
