"""A file's text becomes what it wants, or all that is wrong in it with line, column and key."""

from __future__ import annotations

import textwrap

import pytest

from serve.app.places import MOST_NODES
from serve.app.read import FileError, read_app
from serve.app.records import Source, Wanted
from serve.traffic import TrafficPolicy


def read(text: str, name: str = "app.yaml") -> Wanted:
    return read_app(textwrap.dedent(text), name).wanted


def problems(text: str, name: str = "app.yaml") -> list[str]:
    with pytest.raises(FileError) as caught:
        read(text, name)
    assert str(caught.value).splitlines() == [str(each) for each in caught.value.problems]
    return [str(problem) for problem in caught.value.problems]


WHOLE = """\
x-anything: &cpus
  num_cpus: 0.5
backends:
  one:
    import: package.module:Name
    init_args: [1, [two]]
    init_kwargs: { three: 3 }
    ray_actor_options: { <<: *cpus, num_gpus: 1 }
    config: { num_replicas: 2, logging_config: { level: debug } }
  two:
    import: module.name
endpoints:
  shared:
    route: /shared
    methods: [get, POST]
    traffic: { one: 0.9, two: 0.1 }
    shadow: { two: 0.5, one: 0 }
  inner:
    backend: two
"""


def test_a_file_says_what_the_api_says() -> None:
    wanted = read(WHOLE)
    one, two = wanted.backends.values()
    assert one.source == Source("package.module.Name", (1, ["two"]), {"three": 3})
    assert one.actor_options == {"num_cpus": 0.5, "num_gpus": 1}
    assert one.config.num_replicas == 2
    assert one.config.logging_config is not None and one.config.logging_config.level == "DEBUG"
    assert two.source == Source("module.name")
    assert two.actor_options == {"num_cpus": 1}
    shared, inner = wanted.endpoints.values()
    assert (shared.route, shared.methods) == ("/shared", ("GET", "POST"))
    assert shared.policy == TrafficPolicy.of({"one": 0.9, "two": 0.1}, {"two": 0.5})
    assert (inner.route, inner.methods, inner.lead) == (None, None, "two")


def test_all_that_is_wrong_is_told_at_once_in_the_order_of_the_lines() -> None:
    assert problems(
        """\
        backends:
          counter:
            import: counter
            config:
              num_replicas: two
              num_replica: 3
              logging_config: {encoding: xml, segment_bytes: 5}
            ray_actor_options: {num_cpu: 1}
        endpoints:
          counter:
            route: counter
            backend: countr
        """
    ) == [
        "app.yaml:3:13: backends.counter.import: Import path 'counter' is not one. Expected "
        "'package.module:Name', the name being a function, a class or an ASGI application.",
        "app.yaml:5:21: backends.counter.config.num_replicas: expected an integer of at least 1, "
        "got 'two'. Number of replica processes.",
        "app.yaml:6:7: backends.counter.config.num_replica: unknown key 'num_replica'. Did you "
        "mean 'num_replicas'?",
        "app.yaml:7:34: backends.counter.config.logging_config.encoding: expected one of TEXT, "
        "JSON, got 'XML'. Form of the copy on stderr.",
        "app.yaml:7:54: backends.counter.config.logging_config.segment_bytes: expected an integer "
        "of at least 4096, got 5. A segment that has reached this size is full, and the next one "
        "is begun.",
        "app.yaml:8:25: backends.counter.ray_actor_options.num_cpu: unknown key 'num_cpu'. Did "
        "you mean 'num_cpus'?",
        "app.yaml:11:12: endpoints.counter.route: Route 'counter' must start with '/'. Try "
        "'/counter'.",
        "app.yaml:12:14: endpoints.counter.backend: Backend 'countr' is not in this file. Did you "
        "mean 'counter'?",
    ]


BACKEND = "backends: {a: {import: 'm:F'}}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n", "1:1: expected a mapping, got a list."),
        ("backends: [b\n", "2:1: no YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", "no YAML: expected a single document"),
        ("a: \x01\n", "1:4: no YAML: the character '\\x01' is not allowed."),
        ("backends:\n", "1:10: backends: expected a mapping, got nothing."),
        ("endpoints: {}\n", "backends: it is missing."),
        ("backends: {a: {}}\n", "1:12: backends.a.import: it is missing."),
        ("backends: {1: {import: 'm:F'}}\n", "1:12: backends[1]: a key must be text, got 1."),
        ("backends: {' a': {import: 'm:F'}}\n", "1:12: backends. a: A backend's tag must be"),
        (
            "backends:\n  a: {import: 'm:F'}\n  a: {import: 'm:G'}\n",
            "3:3: backends.a: it is there twice, first in line 2. Remove one.",
        ),
        (
            "backends: {a: {import: 'm:F', init_args: [2020-01-01]}}\n",
            "1:43: backends.a.init_args[0]: 2020-01-01 is read as a date. Quote it: '2020-01-01'.",
        ),
        (
            "backends: {a: {import: 'm:F', init_args: !!python/tuple [1]}}\n",
            "1:42: backends.a.init_args: the tag !!python/tuple is not allowed",
        ),
        (
            "backends: {a: {import: 'm:F', init_args: [!mine x]}}\n",
            "backends.a.init_args[0]: the tag !mine is not allowed",
        ),
        (
            "backends: {a: {import: 'm:F', init_args: &a [*a]}}\n",
            "backends.a.init_args[0]: an alias of what it is a part of has no end.",
        ),
        ("backends: &b {<<: *b}\n", "backends: an alias of what it is a part of has no end."),
        ("backends: {<<: 1}\n", "1:16: backends: '<<' takes the alias of a mapping"),
        ("backends: {a: {import: 'm:F', init_args: [0x_]}}\n", "0x_ is read as a number"),
        (
            "backends: {a: {import: 'm:F', config: {num_replicas: '2'}}}\n",
            "expected an integer of at least 1, got '2'.",
        ),
        (
            "backends: {a: {import: 'm:F', ray_actor_options: {runtime_env: {working_dir: .}}}}\n",
            "1:64: backends.a.ray_actor_options.runtime_env: working_dir of a replica must be a "
            "URI of a zip file",
        ),
        (
            "backends: {a: {import: 'm:F', ray_actor_options: {resources: {CPU: 1}}}}\n",
            "a.ray_actor_options.resources: CPU is not a resource of your own naming. Use 'num_c",
        ),
        (
            "backends: {a: {import: 'm:F', ray_actor_options: {memory: 1.5}}}\n",
            "expected an integer of at least 0, got 1.5.",
        ),
        (BACKEND + "endpoints: {e: {}}\n", "2:13: endpoints.e: Give one of 'backend: TAG' and"),
        (BACKEND + "endpoints: {e: {backend: a, traffic: {a: 1}}}\n", "Got both."),
        (BACKEND + "endpoints: {e: {traffic: {a: 0.5}}}\n", "currently they sum to 0.5"),
        (BACKEND + "endpoints: {e: {traffic: {a: -1}}}\n", "expected a number from 0 to 1, got -1"),
        (BACKEND + "endpoints: {e: {traffic: {b: 1}}}\n", "2:27: endpoints.e.traffic.b: Backend"),
        (BACKEND + "endpoints: {e: {backend: a, shadow: {b: 1}}}\n", "endpoints.e.shadow.b: Back"),
        (BACKEND + "endpoints: {e: {backend: a, methods: GET}}\n", "a list, each text, got 'GET'"),
        (BACKEND + "endpoints: {e: {backend: a, methods: [G T]}}\n", "it contained 'G T'"),
        (
            BACKEND + "endpoints:\n  e: {backend: a, route: /r}\n  f: {backend: a, route: /r}\n",
            "4:26: endpoints.f.route: Route '/r' is endpoint 'e' already.",
        ),
        (BACKEND + "endpoint: {}\n", "2:1: endpoint: unknown key 'endpoint'. Did you mean 'endp"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    found = problems(text)
    assert len(found) <= 2
    assert any(told in problem for problem in found), found


def test_what_could_not_be_read_is_told_and_not_what_follows_from_it() -> None:
    text = "backends: {a: {import: 'm:F', init_args: !!set {}, config: 2020-01-01}}\n"
    assert [problem.split(": ")[1] for problem in problems(text)] == [
        "backends.a.init_args",
        "backends.a.config",
    ]


def test_a_mappings_own_keys_go_before_those_it_is_merged_with_and_earlier_ones_before_later() -> (
    None
):
    wanted = read(
        """\
        x-one: &one {import: 'one:F', init_args: [1]}
        x-two: &two {import: 'two:F', init_args: [2], init_kwargs: {two: 2}}
        backends:
          a: {import: 'own:F', <<: [*one, *two]}
        """
    )
    assert wanted.backends["a"].source == Source("own.F", (1,), {"two": 2})


def test_an_anchors_fault_is_told_once_where_it_stands() -> None:
    text = "x-a: &a {num_cpus: many}\nbackends:\n" + "".join(
        f"  {tag}: {{import: 'm:F', ray_actor_options: *a}}\n" for tag in "bc"
    )
    assert [problem.split(": ")[0] for problem in problems(text)] == ["app.yaml:1:20"] * 2
    text = text.replace("many", "1, num_cpus: 2")
    (problem,) = problems(text)
    assert problem.startswith("app.yaml:1:23: x-a.num_cpus: it is there twice")


@pytest.mark.slow
def test_a_few_lines_that_stand_for_a_billion_values_are_refused_at_once() -> None:
    lines = [f"x-0: &x0 [{','.join('1' * 10)}]"]
    lines += [f"x-{n}: &x{n} [{','.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert problems("\n".join(lines)) == [
        f"app.yaml:1:1: it stands for more than {MOST_NODES} values: aliases of aliases."
    ]


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    assert problems("[" * 1000) == ["app.yaml:1:1: it is nested too deeply."]
    assert problems("[" * 50_000, "app.json") == ["app.json:1:1: it is nested too deeply."]


def test_json_is_read_as_json_has_it() -> None:
    text = '{"backends":\t{"a": {"import": "m:F",\n\t"init_args": [1e5, "\\ud83d\\ude00", "on"]}}}'
    assert read(text, "app.json").backends["a"].source.init_args == (1e5, "😀", "on")
    wrong = text.replace('"m:F"', "7")
    (problem,) = problems(wrong, "app.json")
    assert problem.startswith("app.json:1:31: backends.a.import: expected text, got 7.")
    assert problems('{"a": }', "app.json") == ["app.json:1:7: no JSON: Expecting value."]
    twice, _ = problems(text.replace('"init_args"', '"import"'), "app.json")
    assert twice.startswith("app.json:2:2: backends.a.import: it is there twice")
