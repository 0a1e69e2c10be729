"""The JSON schema for editors: it is up to date, and says the same as `tagtrail deploy`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve.app.read import read_app
from serve.app.schema import app_schema, expected, schema_at
from serve.app.spec import ActorOptions
from tests.unit.test_app_read import WHOLE

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "app.yaml"


def load_tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_for_editors_is_what_the_code_says() -> None:
    tool = load_tool("generate_schema")
    assert tool.FILE.read_text() == tool.schema_text(), "run: python tools/generate_schema.py"


def test_the_example_names_the_schema_and_is_right() -> None:
    text = EXAMPLE.read_text()
    head = text.splitlines()[0]
    assert head == "# yaml-language-server: $schema=../deploy/app.schema.json"
    assert (EXAMPLE.parent / head.partition("=")[2]).is_file()
    jsonschema.validate(yaml.safe_load(text), app_schema())
    assert list(read_app(text, "app.yaml").wanted.endpoints) == ["hello", "counter"]


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(app_schema())


def test_what_deploy_takes_the_schema_takes() -> None:
    jsonschema.validate(yaml.safe_load(WHOLE), app_schema())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("num_replicas: 2", "num_replicas: 0"),
        ("num_replicas: 2", "num_replica: 2"),
        ("num_replicas: 2", "num_replicas: '2'"),
        ("import: module.name", "imports: module.name"),
        ("import: module.name", "import: 7"),
        ("backend: two", "route: /two"),
        ("backend: two", "{backend: two, traffic: {two: 1}}"),
        ("two: 0.5", "two: 1.5"),
        ("level: debug", "levels: debug"),
        ("num_gpus: 1", "num_gpu: 1"),
        ("endpoints:", "endpoint:"),
    ],
)
def test_what_the_schema_refuses_deploy_refuses(old: str, new: str) -> None:
    text = WHOLE.replace(old, new)
    assert text != WHOLE
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), app_schema())
    with pytest.raises(Exception, match=r"app\.yaml:\d+:\d+: "):
        read_app(text, "app.yaml")


def test_ray_knows_every_option_that_the_file_has() -> None:
    # Where Ray refuses one, it does so in the controller, and late.
    from ray import remote

    class Actor:
        pass

    options = ActorOptions(
        num_gpus=0.5,
        memory=1,
        resources={"a": 0.5},
        accelerator_type="T4",
        label_selector={"region": "north"},
        scheduling_strategy="SPREAD",
        enable_task_events=False,
        runtime_env={"env_vars": {"A": "b"}},
    )
    assert options.model_fields_set == ActorOptions.model_fields.keys() - {"num_cpus"}
    remote(Actor).options(**options.model_dump())
    with pytest.raises(ValueError, match="nonsense"):
        remote(Actor).options(nonsense=1)


def test_every_key_is_described() -> None:
    parts = [app_schema(), *app_schema()["$defs"].values()]
    missing = [
        key
        for part in parts
        for key, value in part["properties"].items()
        if not value["description"]
    ]
    assert missing == []


def test_a_place_is_put_in_words() -> None:
    config = ("backends", "any", "config")
    for place, words in {
        (*config, "num_replicas"): "an integer of at least 1",
        (*config, "queue_timeout_s"): "a number above 0",
        (*config, "logging_config"): "a mapping",
        (*config, "logging_config", "encoding"): "one of TEXT, JSON",
        ("endpoints", "any", "traffic", "any"): "a number from 0 to 1",
        ("endpoints", "any", "methods"): "a list, each text",
        ("endpoints", "any", "methods", 0): "text",
    }.items():
        schema = schema_at(place)
        assert schema is not None and expected(schema) == words
    assert schema_at((*config, "no such key")) is None
