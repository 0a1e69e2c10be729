"""deploy/compose.yaml held to the files it mounts and to what `tagtrail stack` starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.deployed import deploy_folder
from observability.stack.rendering import DASHBOARD_FOLDER, RAY_FOLDER
from observability.stack.services import BY_NAME, Place, default_ports

COMPOSE: dict[str, Any] = yaml.safe_load((deploy_folder() / "compose.yaml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
NAMES = list(CONTAINERS)


def mounts(name: str) -> list[tuple[str, str, bool]]:
    """(source, target, whether it is read-only) of each."""
    found = []
    for volume in CONTAINERS[name]["volumes"]:
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found.append((source, target, mode == ["ro"]))
        else:
            assert volume["bind"] == {"create_host_path": False}
            found.append((volume["source"], volume["target"], volume["read_only"]))
    return found


def place_of(name: str) -> Place:
    """Where a container's program works."""
    service = BY_NAME[name]
    targets = {source: target for source, target, _ in mounts(name)}
    config = Path(targets[f"./{service.folder}"]) / service.config
    executable = Path("/usr/bin", service.program.executables[0])
    return Place(executable, config, Path(targets[name]), default_ports())


def test_each_kind_of_program_is_there_once() -> None:
    assert set(NAMES) == {"loki", "alloy", "alertmanager", "prometheus", "grafana"}


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_tag_of_one_version(name: str) -> None:
    assert re.fullmatch(r"(grafana|prom)/[a-z]+:v?\d+\.\d+\.\d+", CONTAINERS[name]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_mounted_is_there_and_cannot_be_written(name: str) -> None:
    for source, target, is_read_only in mounts(name):
        if source.startswith("./"):
            assert (deploy_folder() / source).is_dir()
            assert is_read_only, source
        elif source == RAY_FOLDER:
            assert target == RAY_FOLDER  # Ray's session_latest is a link with the whole path
            assert is_read_only
        else:
            assert source in COMPOSE["volumes"]
    assert [source for source, _, _ in mounts(name)].count(name) == 1


def test_who_reads_files_of_ray_has_its_folder() -> None:
    for name in NAMES:
        config = deploy_folder() / BY_NAME[name].folder / BY_NAME[name].config
        speaks_of_it = config.is_file() and RAY_FOLDER in config.read_text()
        assert speaks_of_it == (RAY_FOLDER in [source for source, _, _ in mounts(name)]), name


def test_grafana_has_its_dashboards_where_its_files_say() -> None:
    assert ("./grafana/dashboards", DASHBOARD_FOLDER, True) in mounts("grafana")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "grafana"])
def test_a_program_gets_the_arguments_that_the_stack_gives_it(name: str) -> None:
    assert tuple(CONTAINERS[name]["command"]) == BY_NAME[name].arguments(place_of(name))


def test_grafana_gets_the_settings_that_the_stack_gives_it() -> None:
    arguments = BY_NAME["grafana"].arguments(place_of("grafana"))
    settings = dict(part[4:].split("=", 1) for part in arguments if part.startswith("cfg:"))
    wanted = {
        f"GF_{name.replace('.', '_').upper()}": value
        for name, value in settings.items()
        if not name.startswith("paths.")  # the image's own are where the volumes are
    }
    assert CONTAINERS["grafana"]["environment"] == wanted


@pytest.mark.parametrize("name", NAMES)
def test_all_are_on_the_hosts_network_where_the_files_look_for_them(name: str) -> None:
    assert CONTAINERS[name]["network_mode"] == "host"
    assert "ports" not in CONTAINERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_health_is_asked_as_the_stack_asks_it(name: str) -> None:
    service = BY_NAME[name]
    test = " ".join(CONTAINERS[name]["healthcheck"]["test"])
    if name == "loki":
        assert test == "CMD /usr/bin/loki -health"  # it asks /ready of its usual port
    elif name == "alloy":
        assert "/dev/tcp/127.0.0.1/12345" in test
        assert f"GET {service.health_path} " in test
    else:
        assert test.endswith(service.health_url(default_ports()))


@pytest.mark.parametrize("name", NAMES)
def test_who_waits_for_another_waits_for_its_health(name: str) -> None:
    for other, condition in CONTAINERS[name].get("depends_on", {}).items():
        assert NAMES.index(other) < NAMES.index(name)
        assert condition == {"condition": "service_healthy"}
