"""How each program of the stack is started, and what is asked to see whether it is well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from observability.deployed import deploy_folder
from observability.stack.services import (
    AGENTS_OF,
    BY_NAME,
    SERVICES,
    Place,
    Role,
    Service,
    default_ports,
    merge_options,
)


def place(name: str = "program", **changes: object) -> Place:
    ports = {name: port + 10_000 for name, port in default_ports().items()}
    made = {"executable": Path("/bin", name), "config": Path("/c"), "data": Path("/d")}
    return Place(**{**made, "ports": ports, **changes})  # type: ignore[arg-type]


def name_of(service: Service) -> str:
    return service.name


@pytest.mark.parametrize("service", SERVICES, ids=name_of)
def test_a_program_listens_on_the_port_it_is_given_and_only_on_this_machine(
    service: Service,
) -> None:
    line = " ".join(service.command(place()))
    for port in service.ports.values():
        assert str(port + 10_000) in line
    assert "127.0.0.1" in line
    assert "0.0.0.0" not in line


@pytest.mark.parametrize("service", SERVICES, ids=name_of)
def test_a_program_keeps_what_it_keeps_in_its_own_folder(service: Service) -> None:
    assert any(part.endswith("=/d") or "=/d/" in part for part in service.command(place()))


@pytest.mark.parametrize("service", SERVICES, ids=name_of)
def test_what_a_program_reads_is_in_deploy(service: Service) -> None:
    assert (deploy_folder() / service.folder / service.config).exists()


def test_no_two_programs_have_the_same_port() -> None:
    assert max(Counter(default_ports().values()).values()) == 1


def test_the_ports_are_the_usual_ones() -> None:
    assert default_ports() == {
        "loki": 3100,
        "loki-grpc": 9095,
        "victoria-logs": 9428,
        "alloy": 12345,
        "promtail": 9080,
        "vlagent": 9429,
        "alertmanager": 9093,
        "prometheus": 9090,
        "grafana": 3000,
    }


def test_a_store_starts_before_its_agents_and_grafana_is_the_last() -> None:
    order = list(BY_NAME)
    for store, agents in AGENTS_OF.items():
        assert BY_NAME[store].role is Role.STORE
        assert all(order.index(store) < order.index(agent) for agent in agents)
    assert order.index("alertmanager") < order.index("prometheus") < order.index("grafana")
    assert order[-1] == "grafana"


def test_health_is_asked_where_the_program_listens() -> None:
    assert BY_NAME["loki"].health_url({"loki": 1234}) == "http://127.0.0.1:1234/ready"


@pytest.mark.parametrize(
    ("file", "verb"), [("grafana", "server"), ("grafana-server", "--homepath=/h")]
)
def test_grafana_is_started_by_its_new_and_by_its_old_name(file: str, verb: str) -> None:
    command = BY_NAME["grafana"].command(place(file, home="/h"))
    assert command[:2] == (f"/bin/{file}", verb)
    assert "cfg:paths.provisioning=/c" in command


def test_a_grafana_that_finds_its_own_files_is_not_told_where_they_are() -> None:
    assert not [p for p in BY_NAME["grafana"].command(place("grafana")) if "homepath" in p]


def test_options_of_a_file_go_along_and_ours_take_the_place_of_theirs() -> None:
    lines = ["# what it is", "", "  -a=1 ", "-listen=:80", "--data = x", "-b"]
    assert merge_options(lines, ("-listen=127.0.0.1:81", "-data=/d")) == (
        "-a=1",
        "-b",
        "-listen=127.0.0.1:81",
        "-data=/d",
    )


@pytest.mark.parametrize("name", ["victoria-logs", "vlagent"])
def test_an_address_in_a_file_of_options_is_not_a_second_one(name: str) -> None:
    command = BY_NAME[name].command(place(options=("-httpListenAddr=:80", "-x=1")))
    assert "-x=1" in command
    assert len([part for part in command if part.startswith("-httpListenAddr")]) == 1
