"""The steps of a deploy, carried out on the controller's own pure goal instead of an instance."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from observability.instrument.logging_config import LoggingConfig
from serve.app.plan import plan
from serve.app.present import present_of
from serve.app.records import Source, Wanted, WantedBackend, WantedEndpoint
from serve.app.steps import (
    Action,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Kind,
    SetTraffic,
    ShadowTraffic,
    Step,
    UpdateBackend,
)
from serve.config import BackendConfig, HTTPOptions
from serve.controller import goal as goals
from serve.controller.goal import BackendGoal, EndpointGoal, Goal
from serve.definition import Definition, digest_of
from serve.traffic import TrafficPolicy
from serve.validate import check_methods

EMPTY = Goal(HTTPOptions(), "node", b"secret", logging=LoggingConfig(level="WARNING"))


def perform(goal: Goal, step: Step) -> Goal:
    """What the controller makes of a step; it raises when a step comes too early or too late."""
    match step:
        case CreateBackend(wanted):
            source = wanted.source
            definition = Definition(source.path, source.init_args, source.init_kwargs)
            traits = definition.inspect()
            backend = BackendGoal(
                wanted.tag,
                digest_of(definition.pack()),
                traits,
                wanted.actor_options,
                wanted.config.resolve(traits),
                change_id=str(next(_ids)),
                outline=definition.outline(),
            )
            made = goals.create_backend(goal, backend)
            return goals.mark_asgi(made, wanted.tag) if source.path == "m.app" else made
        case UpdateBackend(tag, fields):
            return goals.update_backend(goal, tag, BackendConfig(**fields))
        case DeleteBackend(tag):
            return goals.delete_backend(goal, tag)
        case CreateEndpoint(wanted):
            is_asgi = goal.backends[wanted.lead].traits.is_asgi
            methods = None if wanted.methods is None else list(wanted.methods)
            endpoint = EndpointGoal(
                wanted.name,
                wanted.route,
                check_methods(methods, is_asgi),
                is_asgi and wanted.route is not None,
                TrafficPolicy.of({wanted.lead: 1.0}),
                change_id=str(next(_ids)),
            )
            return goals.create_endpoint(goal, endpoint)
        case SetTraffic(name, weights):
            return goals.set_traffic(goal, name, dict(weights))
        case ShadowTraffic(name, tag, proportion):
            return goals.shadow_traffic(goal, name, tag, proportion)
        case DeleteEndpoint(name):
            return goals.delete_endpoint(goal, name)


_ids = itertools.count()


def deploy(goal: Goal, wanted: Wanted, **options: bool) -> list[Goal]:
    """The goals that a deploy passes through, the last one being what it ends with."""
    made = plan(wanted, present_of(goal), **options)
    assert made.refusals == ()
    return list(itertools.accumulate(made.steps, perform, initial=goal))


# Examples.


def backend(tag: str, *init_args: Any, path: str = "m.F", cpus: float = 1, **config: Any) -> Any:
    source = Source(path, init_args)
    return WantedBackend(tag, source, {"num_cpus": cpus}, BackendConfig(**config))


def endpoint(name: str, route: str | None = None, /, **weights: float) -> WantedEndpoint:
    return WantedEndpoint(name, route, None, TrafficPolicy.of(weights))


def app(*parts: WantedBackend | WantedEndpoint) -> Wanted:
    return Wanted(
        {part.tag: part for part in parts if isinstance(part, WantedBackend)},
        {part.name: part for part in parts if isinstance(part, WantedEndpoint)},
    )


def steps_of(before: Wanted, after: Wanted, **options: bool) -> tuple[Step, ...]:
    made = plan(after, present_of(deploy(EMPTY, before)[-1]), **options)
    assert made.refusals == ()
    return made.steps


def test_a_new_version_comes_up_before_it_gets_traffic_and_the_old_one_goes_last() -> None:
    before = app(backend("v1"), endpoint("e", v1=1))
    after = app(backend("v2"), endpoint("e", v2=1))
    assert steps_of(before, after, removes=True) == (
        CreateBackend(after.backends["v2"]),
        SetTraffic("e", (("v2", 1),)),
        DeleteBackend("v1"),
    )


def test_a_backend_grows_before_traffic_moves_and_shrinks_after_it() -> None:
    before = app(backend("a"), backend("b", num_replicas=3), endpoint("e", b=1))
    after = app(backend("a", num_replicas=3), backend("b"), endpoint("e", a=1))
    assert steps_of(before, after) == (
        UpdateBackend("a", {"num_replicas": 3}),
        SetTraffic("e", (("a", 1),)),
        UpdateBackend("b", {"num_replicas": 1}),
    )


def test_what_the_file_leaves_out_gets_its_default_again() -> None:
    before = app(backend("a", num_replicas=3, logging_config={"level": "DEBUG"}))
    (step,) = steps_of(before, app(backend("a")))
    assert step == UpdateBackend("a", {"num_replicas": 1, "logging_config": None})


def test_one_of_two_logging_fields_is_taken_back_to_the_instances_own() -> None:
    before = app(backend("a", logging_config={"level": "DEBUG", "stderr": False}))
    after = app(backend("a", logging_config={"stderr": False}))
    assert steps_of(before, after) == (
        UpdateBackend("a", {"logging_config": {"level": "WARNING"}}),
    )


def test_concurrency_that_follows_from_another_field_is_left_to_follow() -> None:
    # async: what an import path names is taken for it.
    before, after = (app(backend("a", max_batch_size=4, batch_wait_timeout=t)) for t in (0, 1))
    assert steps_of(before, after) == (UpdateBackend("a", {"batch_wait_timeout": 1}),)
    assert deploy(deploy(EMPTY, before)[-1], after)[-1].backends["a"].config == BackendConfig(
        max_batch_size=4, batch_wait_timeout=1, max_concurrent_queries=8
    )


@pytest.mark.parametrize(
    "changed", [backend("a", 2), backend("a", 1, path="m.G"), backend("a", 1, cpus=2)]
)
def test_changed_code_arguments_or_ray_options_are_refused_without_a_word_of_the_caller(
    changed: WantedBackend,
) -> None:
    present = present_of(deploy(EMPTY, app(backend("a", 1)))[-1])
    (refusal,) = plan(app(changed), present).refusals
    assert refusal.place == ("backends", "a")
    assert "a tag of its own" in refusal.message and "--replace" in refusal.message
    assert plan(app(changed), present, replaces=True).steps == (
        DeleteBackend("a"),
        CreateBackend(changed),
    )


@pytest.mark.parametrize("one", [1, 1.0, True, "1", None, [1], {"a": 1}])
def test_arguments_that_python_takes_for_equal_are_told_apart(one: object) -> None:
    present = present_of(deploy(EMPTY, app(backend("a", one)))[-1])
    for other in (1, 1.0, True, "1", None, [1], {"a": 1}):
        made = plan(app(backend("a", other)), present)
        assert bool(made.refusals) is (type(one) is not type(other))


def test_a_backend_of_a_scripts_own_code_is_not_what_a_file_describes() -> None:
    definition = Definition(lambda: "x")
    traits = definition.inspect()
    made = BackendGoal("a", "digest", traits, {"num_cpus": 1}, BackendConfig())
    present = present_of(goals.create_backend(EMPTY, made))
    (refusal,) = plan(app(backend("a")), present).refusals
    assert "a script's own code -> m.F" in refusal.message


def test_a_route_or_method_that_differs_is_refused_as_a_replacement() -> None:
    present = present_of(deploy(EMPTY, app(backend("a"), endpoint("e", "/x", a=1)))[-1])
    moved = app(backend("a"), endpoint("e", "/y", a=1))
    (refusal,) = plan(moved, present).refusals
    assert refusal.place == ("endpoints", "e")
    assert "route: /x -> /y" in refusal.message
    other = replace(endpoint("e", "/x", a=1), methods=("POST",))
    (refusal,) = plan(app(backend("a"), other), present).refusals
    assert "methods: GET -> POST" in refusal.message


def test_methods_that_are_left_out_are_all_for_an_application_and_get_for_others() -> None:
    for path in ("m.F", "m.app"):
        wanted = app(backend("a", path=path), endpoint("e", "/x", a=1), endpoint("f", a=1))
        assert plan(wanted, present_of(deploy(EMPTY, wanted)[-1])).steps == ()


def test_what_the_file_does_not_name_is_told_and_left() -> None:
    present = present_of(deploy(EMPTY, app(backend("a"), endpoint("e", a=1)))[-1])
    made = plan(app(backend("b")), present)
    assert [type(step) for step in made.steps] == [CreateBackend]
    assert Change(Kind.BACKEND, "a", Action.LEAVE) in made.changes
    assert Change(Kind.ENDPOINT, "e", Action.LEAVE) in made.changes


def test_an_endpoint_that_is_left_and_has_the_route_is_in_the_way() -> None:
    present = present_of(deploy(EMPTY, app(backend("a"), endpoint("old", "/x", a=1)))[-1])
    wanted = app(backend("a"), endpoint("new", "/x", a=1))
    (refusal,) = plan(wanted, present).refusals
    assert refusal.place == ("endpoints", "new", "route")
    assert "endpoint 'old'" in refusal.message and "--remove" in refusal.message
    assert plan(wanted, present, removes=True).refusals == ()


def test_a_backend_is_not_replaced_under_an_endpoint_that_the_file_does_not_name() -> None:
    present = present_of(deploy(EMPTY, app(backend("a"), endpoint("old", a=1)))[-1])
    (refusal,) = plan(app(backend("a", 1)), present, replaces=True).refusals
    assert "endpoint 'old'" in refusal.message


def test_an_endpoint_that_leaves_what_is_replaced_is_not_interrupted() -> None:
    before = app(backend("a"), backend("b"), endpoint("e", a=1))
    after = app(backend("a", 1), backend("b"), endpoint("e", b=1))
    steps = steps_of(before, after, replaces=True)
    assert [type(step) for step in steps] == [SetTraffic, DeleteBackend, CreateBackend]


def test_an_endpoint_gets_what_is_replaced_once_it_is_there_again() -> None:
    before = app(backend("a"), backend("b"), endpoint("e", a=1))
    after = app(backend("a"), backend("b", 1), endpoint("e", b=1))
    assert steps_of(before, after, replaces=True) == (
        DeleteBackend("b"),
        CreateBackend(after.backends["b"]),
        SetTraffic("e", (("b", 1),)),
    )


def test_a_shadow_that_is_replaced_does_not_interrupt_its_endpoint() -> None:
    shadowed = replace(endpoint("e", a=1), policy=TrafficPolicy.of({"a": 1}, {"b": 0.5}))
    before = app(backend("a"), backend("b"), shadowed)
    after = app(backend("a"), backend("b", 1), shadowed)
    assert steps_of(before, after, replaces=True) == (
        ShadowTraffic("e", "b", 0),
        DeleteBackend("b"),
        CreateBackend(after.backends["b"]),
        ShadowTraffic("e", "b", 0.5),
    )


def test_shadows_that_stay_are_given_anew_with_new_weights() -> None:
    old, new = (
        replace(endpoint("e"), policy=TrafficPolicy.of(weights, {"b": 0.5}))
        for weights in ({"a": 1}, {"a": 0.5, "b": 0.5})
    )
    assert steps_of(app(backend("a"), backend("b"), old), app(backend("a"), backend("b"), new)) == (
        SetTraffic("e", (("a", 0.5), ("b", 0.5))),
        ShadowTraffic("e", "b", 0.5),
    )


def test_a_whole_number_for_one_with_a_fraction_is_no_difference() -> None:
    before, after = (app(backend("a", batch_wait_timeout=t)) for t in (0.0, 0))
    assert steps_of(before, after) == steps_of(before, app(backend("a"))) == ()


# Properties.

SHARES = st.sampled_from(((1.0,), (0.9, 0.1), (0.5, 0.25, 0.25), (1.0, 0.0)))


@st.composite
def configs(draw: st.DrawFn) -> BackendConfig:
    fields = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "num_replicas": st.integers(1, 3),
                "max_batch_size": st.sampled_from([None, 1, 4]),
                "batch_wait_timeout": st.sampled_from([0, 0.5]),
                "max_concurrent_queries": st.sampled_from([None, 2, 8, 100]),
                "user_config": st.sampled_from([None, 1, True, {"a": [1.0]}, float("nan")]),
                "logging_config": st.fixed_dictionaries(
                    {},
                    optional={
                        "level": st.sampled_from(["DEBUG", "WARNING"]),
                        "access_log": st.booleans(),
                        "extra_fields": st.sampled_from([{}, {"team": "a"}]),
                    },
                ),
            },
        )
    )
    return BackendConfig(**fields)


@st.composite
def apps(draw: st.DrawFn) -> Wanted:
    tags = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    backends = [
        WantedBackend(
            tag,
            Source(
                draw(st.sampled_from(["m.F", "m.G", "m.app"])),
                draw(st.sampled_from([(), (1,), (True,), ([float("nan")],)])),
                draw(st.sampled_from([{}, {"k": "v"}])),
            ),
            {"num_cpus": draw(st.sampled_from([1, 1.0, 0.5]))},
            draw(configs()),
        )
        for tag in tags
    ]
    routes = draw(st.permutations([None, "/x", "/y"]))
    endpoints = []
    for name, route in zip(
        draw(st.lists(st.sampled_from("efg"), unique=True)), routes, strict=False
    ):
        shares = draw(SHARES.filter(lambda shares: len(shares) <= len(tags)))
        weights = dict(zip(draw(st.permutations(tags)), shares, strict=False))
        shadows = draw(st.dictionaries(st.sampled_from(tags), st.sampled_from([0.5, 1.0])))
        methods = draw(st.sampled_from([None, ("GET",), ("GET", "POST")]))
        endpoints.append(WantedEndpoint(name, route, methods, TrafficPolicy.of(weights, shadows)))
    return app(*backends, *endpoints)


@pytest.mark.slow
@settings(max_examples=30)
@given(apps(), apps())
def test_a_deploy_makes_of_any_instance_what_the_file_says(before: Wanted, after: Wanted) -> None:
    reached = deploy(deploy(EMPTY, before)[-1], after, removes=True, replaces=True)[-1]
    fresh = deploy(EMPTY, after)[-1]
    assert reached.backends.keys() == fresh.backends.keys()
    assert reached.endpoints.keys() == fresh.endpoints.keys()
    for tag, made in fresh.backends.items():
        here = reached.backends[tag]
        assert here.outline == made.outline
        assert here.actor_options == made.actor_options
        assert effective(here.config) == effective(made.config)
    for name, end in fresh.endpoints.items():
        assert (reached.endpoints[name].route, reached.endpoints[name].policy) == (
            end.route,
            end.policy,
        )
        if after.endpoints[name].methods is not None:
            assert reached.endpoints[name].methods == end.methods


def effective(config: BackendConfig) -> str:
    logging = (config.logging_config or LoggingConfig()).over(EMPTY.logging)
    written = BackendConfig(**config.model_dump())  # 0 and 0.0 are one
    return f"{written.model_dump(exclude={'logging_config'})} {logging.model_dump()}"


@pytest.mark.slow
@settings(max_examples=30)
@given(apps(), apps(), st.booleans())
def test_deployed_again_it_does_nothing(before: Wanted, after: Wanted, removes: bool) -> None:
    goal = deploy(EMPTY, before)[-1]
    made = plan(after, present_of(goal), removes=removes, replaces=True)
    if made.refusals:
        return
    reached = deploy(goal, after, removes=removes, replaces=True)[-1]
    again = plan(after, present_of(reached), removes=removes)
    assert (again.steps, again.refusals) == ((), ())
    assert {change.action for change in again.changes} <= {Action.NOTHING, Action.LEAVE}


@pytest.mark.slow
@settings(max_examples=30)
@given(apps(), apps())
def test_an_endpoint_that_is_not_replaced_is_there_at_every_step(
    before: Wanted, after: Wanted
) -> None:
    goal = deploy(EMPTY, before)[-1]
    made = plan(after, present_of(goal), removes=True, replaces=True)
    stay = {
        change.name
        for change in made.changes
        if change.kind is Kind.ENDPOINT and change.action in (Action.UPDATE, Action.NOTHING)
    }
    for passed in deploy(goal, after, removes=True, replaces=True):
        assert stay <= passed.endpoints.keys()
