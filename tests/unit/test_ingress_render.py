"""The document: which rules a table makes, and that no user's word gets into the configuration."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.ingress.maps import key_endpoints, make_maps
from serve.ingress.names import section_name, server_name
from serve.ingress.records import Document, IngressSettings
from serve.ingress.render import SILENT_HOST_S, format_address, render
from serve.records import BackendTargets, IngressRoute, IngressTable, ReplicaAddress
from serve.traffic import TrafficPolicy

SETTINGS = IngressSettings("127.0.0.1", 8000, "/tmp/x")


def make_route(
    endpoint: str, path: str | None, weights: dict[str, float], **options: object
) -> IngressRoute:
    route = IngressRoute(endpoint, path, ("GET",), False, TrafficPolicy.of(weights))
    return dataclasses.replace(route, **options)  # type: ignore[arg-type]


def make_replica(tag: str, host: str = "10.0.0.1", port: int = 1234) -> ReplicaAddress:
    return ReplicaAddress(tag, "actor", "node", host, port, 0)


def section(document: Document, name: str) -> str:
    """Text of one section."""
    parts = document.config.split("\n\n")
    return next(part for part in parts if part.splitlines()[0] == name)


def test_one_document_for_one_table() -> None:
    table = IngressTable((make_route("e", "/f", {"b": 1}),), (BackendTargets("b"),))
    assert render(table, SETTINGS) == render(table, SETTINGS)


def test_a_backend_has_its_limits_and_one_server_for_each_replica() -> None:
    members = (make_replica("b#one"), make_replica("b#two", "fd00::1", 5))
    table = IngressTable((), (BackendTargets("b", members, 7, 99, 1.5),))
    text = section(render(table, SETTINGS), f"backend {section_name('b')}")
    assert f"server {server_name('b#one')} 10.0.0.1:1234 maxconn 7" in text
    assert f"server {server_name('b#two')} [fd00::1]:5 maxconn 7" in text
    assert "timeout queue 1500ms" in text
    assert "{ queue ge 99 }" in text
    assert "retries 50" in text


def test_the_token_is_shown_to_replicas_only() -> None:
    table = IngressTable(
        (make_route("e", "/f", {"b": 1}),), (BackendTargets("b", (make_replica("b#one"),)),)
    )
    settings = dataclasses.replace(SETTINGS, token="0a" * 32)
    document = render(table, settings)

    assert document.config.count(settings.token) == 1
    rule = f"http-request set-header X-Serve-Token {settings.token}"
    assert rule in section(document, f"backend {section_name('b')}")
    assert settings.token not in repr(settings)
    assert "X-Serve-Token" not in render(table, SETTINGS).config


def test_no_time_limit_becomes_haproxys_for_ever() -> None:
    table = IngressTable((), (BackendTargets("b", queue_timeout_s=0.0),))
    text = section(render(table, SETTINGS), f"backend {section_name('b')}")
    assert "timeout queue 1ms" in text


def test_a_thousand_plain_endpoints_have_no_rules_of_their_own() -> None:
    def count_rules(count: int) -> int:
        routes = tuple(make_route(f"e{i}", f"/{i}", {"b": 1}) for i in range(count))
        config = render(IngressTable(routes, (BackendTargets("b"),)), SETTINGS).config
        return config.count("http-request") + config.count("use_backend")

    assert count_rules(1000) == count_rules(1)


def test_a_split_has_an_edge_for_each_share_but_the_last() -> None:
    policy = TrafficPolicy.of({"a": 0.25, "b": 0.25, "c": 0.5}, {"d": 0.1})
    table = IngressTable((make_route("e", "/f", {}, policy=policy),))
    frontend = section(render(table, SETTINGS), "frontend ingress")
    assert f"use_backend {section_name('a')} if" in frontend
    assert "-m int lt 250000000 }" in frontend
    assert f"use_backend {section_name('b')} if" in frontend
    assert "-m int lt 500000000 }" in frontend
    assert f"use_backend {section_name('c')} if" not in frontend
    assert "-m int lt 100000000 }" in frontend  # the shadow
    (endpoint,) = key_endpoints(table)
    assert make_maps(table).targets.text.startswith(f"{endpoint.key} {section_name('c')}\n")


def test_backends_that_only_a_policy_names_have_a_section() -> None:
    table = IngressTable((make_route("e", "/f", {"ghost": 1}),))
    assert f"backend {section_name('ghost')}" in render(table, SETTINGS).config


def test_the_route_table_lists_headless_endpoints_by_name() -> None:
    table = IngressTable((make_route("e", "/f", {}), make_route("h", None, {})))
    listing = make_maps(table).listing.text
    assert json.loads(listing) == {"/f": ["e", ["GET"]], "h": ["h", ["GET"]]}
    assert " " not in listing
    assert [endpoint.route.endpoint for endpoint in key_endpoints(table)] == ["e"]


def test_patterns_keep_their_order_and_those_of_mounts_come_last() -> None:
    routes = (
        make_route("m", "/{tenant}", {}, is_mount=True),
        make_route("z", "/{z}/x", {}),
        make_route("a", "/{a}/{b}", {}),
    )
    lines = make_maps(IngressTable(routes)).patterns.text.splitlines()
    assert [line.split()[0] for line in lines] == [
        "^/([^/]+)/x$",
        "^/([^/]+)/([^/]+)$",
        "^/([^/]+)(/.*)?$",
    ]


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=30))
def test_no_name_enters_the_configuration(name: str) -> None:
    marked = f"\u2603{name}"
    table = IngressTable(
        (make_route(marked, f"/{len(name)}", {marked: 1}),),
        (BackendTargets(marked, (make_replica(marked),)),),
    )
    document = render(table, SETTINGS)
    assert "\u2603" not in document.config
    assert document.config.isascii()


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\x00b", "a\x85b", "\ud800"])
def test_control_characters_in_a_name_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"Endpoint .*Control characters"):
        render(IngressTable((make_route(bad, "/f", {}),)), SETTINGS)
    with pytest.raises(ValueError, match=r"Backend .*Control characters"):
        render(IngressTable((), (BackendTargets(bad),)), SETTINGS)


@pytest.mark.parametrize("method", ["GET POST", "GET}", "'", "%[x]", "-m", "", "GÄT", "a"])
def test_what_is_no_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="HTTP method"):
        render(IngressTable((make_route("e", "/f", {}, methods=(method,)),)), SETTINGS)


@pytest.mark.parametrize("host", ["a b", "a\nb", "", "x;y", "${HOME}"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="Host"):
        format_address(host, 1)


def test_names_of_ours_are_readable_and_never_shared() -> None:
    assert section_name("my_model:v2").startswith("b_my_model-v2_")
    assert section_name("a b") != section_name("a-b") != section_name("a/b")
    assert server_name("x") != section_name("x")
    assert section_name("\u2603").isascii()
    assert len(section_name("x" * 500)) < 64


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("host", "a b", "Host 'a b'"),
        ("port", 0, "Port 0"),
        ("port", 65536, "Port 65536"),
        ("folder", "relative", "Folder 'relative'"),
        ("folder", "/a b", "Folder '/a b'"),
        ("folder", "/" + "x" * 90, "too long"),
        ("thread_count", 0, "above 0"),
        ("request_timeout_s", 0.0, "above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(field: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(SETTINGS, **{field: value})  # type: ignore[arg-type]


def test_a_silent_host_is_noticed_in_ten_seconds() -> None:
    text = section(render(IngressTable(), SETTINGS), "defaults")
    seconds = {
        name: int(re.findall(rf"srvtcpka-{name} (\d+)s?$", text, re.M)[0])
        for name in ("idle", "intvl", "cnt")
    }
    assert "option srvtcpka\n" in text
    assert seconds["idle"] + seconds["intvl"] * seconds["cnt"] == SILENT_HOST_S
