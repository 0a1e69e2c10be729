"""Tags and ids."""

from __future__ import annotations

import re

import pytest

from serve.ids import (
    ActorName,
    ingress_actor_name,
    is_request_id,
    make_controller_name,
    make_replica_tag,
    make_request_id,
    parse_actor_name,
    random_letters,
    replica_actor_name,
)


def test_a_replica_tag_is_its_backends_tag_and_six_letters() -> None:
    assert re.fullmatch(r"my backend#[a-zA-Z]{6}", make_replica_tag("my backend"))


def test_random_letters_are_as_many_as_asked_for_and_differ() -> None:
    assert re.fullmatch("[a-zA-Z]{10}", random_letters(10))
    assert len({random_letters() for _ in range(100)}) == 100


def test_a_made_request_id_is_well_formed_and_new_each_time() -> None:
    ids = {make_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", each) and is_request_id(each) for each in ids)


@pytest.mark.parametrize("text", ["a", "A-Z_a.z:0", "x" * 128])
def test_a_clients_well_formed_request_id_is_taken_over(text: str) -> None:
    assert is_request_id(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a\n", "a;b", "ä", '"'])
def test_a_clients_ill_formed_request_id_is_not(text: str) -> None:
    assert not is_request_id(text)


def test_the_detached_controller_has_the_known_name_and_others_a_random_prefix() -> None:
    assert make_controller_name(detached=True) == "SERVE_CONTROLLER_ACTOR"
    assert re.fullmatch("[a-zA-Z]{6}:SERVE_CONTROLLER_ACTOR", make_controller_name(detached=False))


def test_actors_are_named_after_their_controller() -> None:
    assert replica_actor_name("C", "a#abcdef") == "C:a#abcdef"
    assert ingress_actor_name("C", "node1") == "C:SERVE_PROXY_ACTOR-node1"


@pytest.mark.parametrize("controller", ["SERVE_CONTROLLER_ACTOR", "xYzabc:SERVE_CONTROLLER_ACTOR"])
@pytest.mark.parametrize(
    "tag",
    [
        "model#abcDEF",
        "my: model#1#abcDEF",
        "SERVE_PROXY_ACTOR-model#abcDEF",
        "SERVE_CONTROLLER_ACTOR:a#abcDEF",
    ],
)
def test_a_replicas_actor_is_known_by_its_name_whatever_its_tag(controller: str, tag: str) -> None:
    assert parse_actor_name(replica_actor_name(controller, tag)) == ActorName(
        controller, replica_tag=tag
    )


@pytest.mark.parametrize("controller", ["SERVE_CONTROLLER_ACTOR", "xYzabc:SERVE_CONTROLLER_ACTOR"])
def test_an_ingresss_actor_is_known_by_its_name(controller: str) -> None:
    name = ingress_actor_name(controller, "0123abc")
    assert parse_actor_name(name) == ActorName(controller, node_id="0123abc")


@pytest.mark.parametrize(
    "name", ["SERVE_CONTROLLER_ACTOR", "xYzabc:SERVE_CONTROLLER_ACTOR", "a#abcdef", ""]
)
def test_other_actors_are_neither(name: str) -> None:
    assert parse_actor_name(name) is None
