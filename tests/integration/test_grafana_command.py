"""`tagtrail grafana push` and `diff`, as typed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from observability.deployed import deploy_folder
from observability.grafana.boards import BOARDS
from observability.grafana.records import LOKI_UID, PROMETHEUS_UID
from tests.conftest import free_port
from tests.integration.command import tagtrail, typed_tagtrail
from tests.integration.grafana_api import TOKEN, GrafanaApi, run_grafana_api


@pytest.fixture
def api() -> Iterator[GrafanaApi]:
    with run_grafana_api() as running:
        yield running


def grafana(
    api: GrafanaApi, verb: str, *options: str, token: str = TOKEN, run: Any = tagtrail
) -> subprocess.CompletedProcess[str]:
    return run("grafana", verb, "--url", api.url, "--token", token, *options)


def test_push_makes_everything_once_and_nothing_the_second_time(api: GrafanaApi) -> None:
    first = grafana(api, "push", run=typed_tagtrail)
    assert first.returncode == 0, first.stderr
    assert set(api.sources) == {
        PROMETHEUS_UID,
        LOKI_UID,
        "tagtrail-alertmanager",
        "tagtrail-traces",
    }
    assert api.folders["tagtrail"]["title"] == "Tagtrail"
    assert set(api.dashboards) == {board.uid for board in BOARDS}
    for board in BOARDS:
        file = deploy_folder() / "grafana" / "dashboards" / f"{board.name}.json"
        kept = api.dashboards[board.uid]
        assert kept["meta"]["folderUid"] == "tagtrail"
        assert json.loads(file.read_text()).items() <= kept["dashboard"].items()

    api.writes.clear()
    second = grafana(api, "push", "--json")
    assert second.returncode == 0, second.stderr
    assert {change["action"] for change in json.loads(second.stdout)} == {"nothing"}
    assert api.writes == []


def test_diff_changes_nothing_and_tells_what_push_would_do(api: GrafanaApi) -> None:
    before = grafana(api, "diff")
    assert before.returncode == 3
    assert "dashboard tagtrail-overview is missing" in before.stdout
    assert api.writes == []

    assert grafana(api, "push").returncode == 0
    assert grafana(api, "diff").returncode == 0
    api.dashboards["tagtrail-canary"]["dashboard"]["title"] = "mine"
    api.dashboards["tagtrail-canary"]["dashboard"]["timezone"] = "utc"
    changed = grafana(api, "diff")
    assert changed.returncode == 3
    (line,) = [line for line in changed.stdout.splitlines() if "differs" in line]
    assert line == "dashboard tagtrail-canary differs: timezone, title"

    api.writes.clear()
    assert "tagtrail-canary changed" in grafana(api, "push").stdout
    assert api.writes == ["POST /api/dashboards/db"]
    assert grafana(api, "diff").returncode == 0


def test_the_link_from_a_line_to_its_request_is_written_as_the_api_wants_it(
    api: GrafanaApi,
) -> None:
    assert grafana(api, "push").returncode == 0
    fields = api.sources[LOKI_UID]["jsonData"]["derivedFields"]
    (field,) = [field for field in fields if field["name"] == "Request trail"]
    assert field["url"].endswith("=${__value.raw}")


def test_data_sources_are_where_that_grafana_reaches_them(api: GrafanaApi) -> None:
    assert grafana(api, "push").returncode == 0
    done = grafana(api, "push", "--prometheus", "http://prom:9090", "--loki", "http://loki:3100")
    assert done.returncode == 0, done.stderr
    assert api.sources[PROMETHEUS_UID]["url"] == "http://prom:9090"
    assert api.sources[LOKI_UID]["url"] == "http://loki:3100"


def test_a_grafana_below_a_path_is_found() -> None:
    with run_grafana_api("/grafana") as api:
        done = grafana(api, "push")
        assert done.returncode == 0, done.stderr
        assert len(api.dashboards) == len(BOARDS)


def test_a_wrong_token_is_told_with_the_right_that_is_needed(api: GrafanaApi) -> None:
    done = grafana(api, "push", token="wrong")
    assert done.returncode == 1
    assert "role Admin (--token)" in done.stderr
    assert "wrong" not in done.stderr
    assert api.writes == []


def test_a_folder_that_was_renamed_gets_its_name_back(api: GrafanaApi) -> None:
    assert grafana(api, "push").returncode == 0
    api.folders["tagtrail"]["title"] = "Renamed"
    assert "folder tagtrail changed: title" in grafana(api, "push").stdout
    assert api.folders["tagtrail"]["title"] == "Tagtrail"


def test_what_was_provisioned_from_files_is_told(api: GrafanaApi) -> None:
    assert grafana(api, "push").returncode == 0
    api.read_only.add(LOKI_UID)
    done = grafana(api, "push", "--loki", "http://elsewhere:3100")
    assert done.returncode == 1
    assert f"data source {LOKI_UID}" in done.stderr
    assert "read-only" in done.stderr


def test_a_name_that_is_taken_by_another_data_source_is_told(api: GrafanaApi) -> None:
    api.sources["foreign"] = {"name": "Tagtrail records", "uid": "foreign"}
    done = grafana(api, "push")
    assert done.returncode == 1
    assert f"data source {LOKI_UID}" in done.stderr
    assert "same name already exists" in done.stderr


def test_a_grafana_that_does_not_run_is_told_with_its_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = typed_tagtrail("grafana", "diff", "--url", url)
    assert done.returncode == 1
    assert f"Grafana can't be reached at {url} (ConnectionError). Does it run?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    done = tagtrail("grafana", "diff", "--url", url)
    assert done.returncode == 1
    assert "is no address. Expected http://HOST:3000." in done.stderr


def test_a_user_without_a_password_is_wrong_usage() -> None:
    done = tagtrail("grafana", "push", "--user", "admin")
    assert done.returncode == 2
    assert "expected NAME:PASSWORD" in done.stderr
