"""Route patterns match as starlette's do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import compile_path

from serve.routes import check_route, compile_route


@pytest.mark.parametrize(
    ("route", "path", "expected"),
    [
        ("/", "/", {}),
        ("/f", "/f", {}),
        ("/f", "/f/", None),
        ("/f", "/ff", None),
        ("/v1.0", "/v1x0", None),
        ("/a+b(c)", "/a+b(c)", {}),
        ("/u/{name}", "/u/a b", {"name": "a b"}),
        ("/u/{name}", "/u/", None),
        ("/u/{name}", "/u/a/b", None),
        ("/u/{n:int}", "/u/012", {"n": 12}),
        ("/u/{n:int}", "/u/-1", None),
        ("/u/{n:int}", "/u/\u0661", None),
        ("/p/{x:float}", "/p/1.5", {"x": 1.5}),
        ("/p/{x:float}", "/p/2", {"x": 2.0}),
        ("/p/{x:float}", "/p/1.", None),
        ("/f/{rest:path}", "/f/a/b", {"rest": "a/b"}),
        ("/f/{rest:path}", "/f/", {"rest": ""}),
        ("/{a}/{b:int}.txt", "/x/3.txt", {"a": "x", "b": 3}),
        ("/{a}/{b:int}.txt", "/x/3ytxt", None),
        ("/größe/{x}", "/größe/ü", {"x": "ü"}),
    ],
)
def test_a_route_matches_and_converts(
    route: str, path: str, expected: dict[str, object] | None
) -> None:
    found = compile_route(route).match(path)
    assert found == expected
    if expected:
        assert found is not None
        assert [type(value) for value in found.values()] == list(map(type, expected.values()))


@pytest.mark.parametrize(
    ("route", "path", "expected"),
    [
        ("/api", "/api", {}),
        ("/api", "/api/", {}),
        ("/api/", "/api", {}),
        ("/api", "/api/x/y", {}),
        ("/api", "/apix", None),
        ("/", "/", {}),
        ("/", "/anything/at/all", {}),
        ("/t/{name}", "/t/joe/x", {"name": "joe"}),
        ("/t/{name}", "/t", None),
    ],
)
def test_a_mount_matches_itself_and_all_below(
    route: str, path: str, expected: dict[str, object] | None
) -> None:
    assert compile_route(route, is_mount=True).match(path) == expected


@given(st.from_regex(r"/[ab1./]{0,8}", fullmatch=True))
@pytest.mark.parametrize(
    "route", ["/{x}", "/{x}/b", "/a{n:int}", "/{p:path}/a", "/{f:float}", "/a.{x}/{y}"]
)
def test_starlette_agrees(route: str, path: str) -> None:
    regex, _, converters = compile_path(route)
    theirs = regex.match(path)
    ours = compile_route(route).match(path)
    assert (ours is None) == (theirs is None)
    if theirs and ours is not None:
        assert ours == {n: converters[n].convert(v) for n, v in theirs.groupdict().items()}


@given(st.from_regex(r"/[ab1./+()]{0,8}", fullmatch=True))
@pytest.mark.parametrize("route", ["/{x}", "/a+(b)/{n:int}", "/{f:float}/{p:path}"])
def test_the_regular_expression_for_haproxy_matches_the_same_paths(route: str, path: str) -> None:
    compiled = compile_route(route)
    assert bool(re.match(compiled.regex, path)) == (compiled.match(path) is not None)
    assert "?P<" not in compiled.regex and "(?:" not in compiled.regex


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        ("f", "must start with '/'"),
        ("", "must start with '/'"),
        ("/a b", "holds ' '"),
        ("/a\nb", "control characters"),
        ("/a\x7f", "control characters"),
        ("/a\u00a0b", "Spaces"),
        ("/\ud800", "control characters"),
        ("/-/routes", "reserved"),
        ("/-/healthz", "reserved"),
        ("/{x:uuid7}", "unknown converter 'uuid7'"),
        ("/{x}/{x}", "names the parameter 'x' twice"),
        ("/{x", "braces"),
        ("/x}", "braces"),
        ("/{}", "braces"),
        ("/{1x}", "braces"),
        ("/{{x}}", "braces"),
    ],
)
def test_a_bad_route_is_refused_with_its_name_and_the_reason(route: str, reason: str) -> None:
    for refuse in (check_route, compile_route):
        with pytest.raises(ValueError, match=re.escape(reason)) as caught:
            refuse(route)
        assert repr(route) in str(caught.value)


def test_other_paths_below_the_reserved_ones_are_free() -> None:
    check_route("/-/mine")


@pytest.mark.parametrize(
    ("route", "path", "root"),
    [
        ("/t/{name}", "/t/joe", "/t/joe"),
        ("/t/{name}", "/t/joe/", "/t/joe"),
        ("/t/{name}/", "/t/joe/x/y", "/t/joe"),
        ("/t/{n:int}/u/{x:float}", "/t/1/u/2.5/x", "/t/1/u/2.5"),
    ],
)
def test_a_mount_with_parameters_knows_which_part_of_a_path_it_is(
    route: str, path: str, root: str
) -> None:
    assert compile_route(route, is_mount=True).find_root(path) == root
