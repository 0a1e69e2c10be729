"""What the agents' files make of a record, held against the table of fields and the segments."""

from __future__ import annotations

import fnmatch
import json
import re
from typing import Any

import pytest
import yaml

from observability.deployed import deploy_folder
from observability.fields import FIELDS, Role
from observability.instrument.logging_config import LoggingConfig

LABELS = [field.name for field in FIELDS if field.role is Role.LABEL]
METADATA = [field.name for field in FIELDS if field.role is Role.METADATA]
SEGMENT = "/tmp/ray/session_2026-02-26_11-05-21_709311_4711/logs/serve/replica_b#jZlnUI.000001.log"


def read(*names: str) -> str:
    return deploy_folder().joinpath(*names).read_text()


def promtail() -> Any:
    return yaml.safe_load(read("loki", "promtail-local-config.yaml"))


def promtail_job(name: str) -> Any:
    [job] = [job for job in promtail()["scrape_configs"] if job["job_name"] == name]
    return job


def alloy_block(name: str) -> list[str]:
    """The keys of a block of the Alloy file, in their order."""
    [block] = re.findall(rf"stage\.{name} \{{(.*?)\n\t\}}", read("alloy", "config.alloy"), re.S)
    return re.findall(r'^\t\t\t(\w+)\s+= ""', block, re.M)


def flags(name: str) -> dict[str, list[str]]:
    """The values of each option, in their order."""
    found: dict[str, list[str]] = {}
    for line in read("victoria-logs", name).splitlines():
        if not line.startswith("#"):
            option, _, value = line.partition("=")
            found.setdefault(option, []).append(value)
    return found


def jobs_of_vlagent() -> dict[str, str]:
    """The glob of each job."""
    options = flags("vlagent.flags")
    fields = [json.loads(text) for text in options["-fileCollector.extraFields"]]
    return {
        more["job"]: glob for more, glob in zip(fields, options["-fileCollector.glob"], strict=True)
    }


def test_promtail_takes_labels_and_metadata_from_the_table() -> None:
    stages = {
        name: value
        for stage in promtail_job("serve")["pipeline_stages"]
        for name, value in stage.items()
    }
    assert sorted(stages["labels"]) == sorted(LABELS)
    assert sorted(stages["structured_metadata"]) == sorted(METADATA)
    assert set(stages["json"]["expressions"]) == {"time", *LABELS, *METADATA}
    assert stages["timestamp"] == {"source": "time", "format": "RFC3339Nano"}


def test_alloy_takes_labels_and_metadata_from_the_table() -> None:
    assert sorted(alloy_block("labels")) == sorted(LABELS)
    assert sorted(alloy_block("structured_metadata")) == sorted(METADATA)
    assert set(alloy_block("json")) == {"time", *LABELS, *METADATA}


def test_vlagent_makes_streams_of_the_labels() -> None:
    [found] = flags("vlagent.flags")["-fileCollector.streamFields"]
    assert sorted(found.split(",")) == sorted(["job", *LABELS])


@pytest.mark.parametrize("agent", ["promtail", "alloy", "vlagent"])
def test_each_agent_reads_the_segments_under_their_own_session(agent: str) -> None:
    pattern = {
        "promtail": lambda: promtail_job("serve")["static_configs"][0]["labels"]["__path__"],
        "alloy": lambda: re.findall(r'__path__ = "(.*serve.*)"', read("alloy", "config.alloy"))[0],
        "vlagent": lambda: jobs_of_vlagent()["serve"],
    }[agent]()
    assert fnmatch.fnmatchcase(SEGMENT, pattern)
    assert not fnmatch.fnmatchcase(re.sub(r"session_[^/]+", "session_latest", SEGMENT), pattern)


@pytest.mark.parametrize("path", ["worker-4711.err", "gcs_server.out"])
def test_the_job_of_the_tutorial_reads_what_ray_writes_but_no_segment(path: str) -> None:
    promtails = promtail_job("ray")["static_configs"][0]["labels"]["__path__"]
    [alloys] = re.findall(r'__path__ = "(.*\*\.\*)"', read("alloy", "config.alloy"))
    vlagents = jobs_of_vlagent()["ray"]
    assert promtails == alloys == vlagents == "/tmp/ray/session_latest/logs/*.*"
    # As the agents do: a star stays within a folder.
    pattern = re.compile(re.escape(promtails).replace(r"\*", "[^/]*"))
    assert pattern.fullmatch(f"/tmp/ray/session_latest/logs/{path}")
    assert not pattern.fullmatch(f"/tmp/ray/session_latest/logs/serve/{path}")


def test_nothing_is_given_up_while_the_store_is_away() -> None:
    assert promtail()["clients"][0]["backoff_config"]["max_retries"] == 0
    assert re.search(r"max_backoff_retries = 0\b", read("alloy", "config.alloy"))


def test_stores_keep_records_as_long_as_segments_are_kept() -> None:
    limits = yaml.safe_load(read("loki", "loki-local-config.yaml"))["limits_config"]
    hours = int(LoggingConfig().max_age_s / 3600)
    assert limits["retention_period"] == limits["reject_old_samples_max_age"] == f"{hours}h"
    assert flags("victoria-logs.flags")["-retentionPeriod"] == [f"{hours // 24}d"]


def test_loki_adds_no_labels_of_its_own_and_splits_no_stream() -> None:
    config = yaml.safe_load(read("loki", "loki-local-config.yaml"))
    limits = config["limits_config"]
    assert limits["shard_streams"] == {"enabled": False}
    assert limits["discover_service_name"] == [] and limits["discover_log_levels"] is False
    assert config["analytics"] == {"reporting_enabled": False}
    [schema] = config["schema_config"]["configs"]
    assert (schema["store"], schema["schema"]) == ("tsdb", "v13")


def test_all_agents_send_to_where_their_store_listens() -> None:
    loki = yaml.safe_load(read("loki", "loki-local-config.yaml"))["server"]
    push = f"http://{loki['http_listen_address']}:{loki['http_listen_port']}/loki/api/v1/push"
    assert promtail()["clients"][0]["url"] == push
    assert f'"{push}"' in read("alloy", "config.alloy")
    [store] = flags("victoria-logs.flags")["-httpListenAddr"]
    assert flags("vlagent.flags")["-remoteWrite.url"] == [f"http://{store}/insert/native"]
