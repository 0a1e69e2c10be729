"""deploy/ray/cluster.yaml as Ray's own launcher reads it. No machine is asked for anything."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from observability.deployed import deploy_folder


def read() -> Any:
    return yaml.safe_load((deploy_folder() / "ray" / "cluster.yaml").read_text())


def test_ray_takes_it() -> None:
    config = prepare_config(read())
    validate_config(config)
    assert config["provider"]["type"] == "local"
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    assert config["head_start_ray_commands"] == read()["head_start_ray_commands"]


def test_the_head_uses_the_autoscaler_that_knows_machines_of_ones_own() -> None:
    [start] = [c for c in read()["head_start_ray_commands"] if "--autoscaling-config" in c]
    assert "RAY_enable_autoscaler_v2=0 " in start  # ray#57153


def test_ray_refuses_what_it_does_not_know() -> None:
    with pytest.raises(jsonschema.ValidationError, match="head_start_commands"):
        validate_config(prepare_config(read()) | {"head_start_commands": []})
