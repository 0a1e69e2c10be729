"""Every LogQL query that Tagtrail ships or shows, held against the grammar of Grafana's editor."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.integration.pipelines import log_queries, queries_of
from tests.integration.processes import ROOT
from tests.integration.programs import CHECK_LOGQL, require


def check(queries: list[str]) -> dict[str, str]:
    """What of each query the grammar does not take, from where on; {} when it takes all."""
    done = subprocess.run(
        [require(CHECK_LOGQL)],
        input=json.dumps(queries),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return {query: rest for query, rest in zip(queries, answers, strict=True) if rest is not None}


def in_dashboards() -> list[str]:
    return log_queries({"__auto": "5m", "__range": "1h"})


def in_docs() -> list[str]:
    pages = sorted((ROOT / "docs").glob("*.md"))
    return [query for page in pages for query in queries_of(page, "logql")]


def test_what_is_no_logql_is_told() -> None:
    assert check(['{job="ray"} | json', '{job="ray"} | | json', '{job="ray"']) == {
        '{job="ray"} | | json': "| json",
        '{job="ray"': "its end",
    }


@pytest.mark.parametrize("find", [in_dashboards, in_docs])
def test_every_query_is_logql(find: object) -> None:
    assert callable(find)
    queries = find()
    assert queries
    assert check(queries) == {}
