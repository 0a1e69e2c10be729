"""Backends on a real cluster: what they may be, how they change, how they fail."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
from pydantic import ValidationError

import serve
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import wait_until
from tests.integration.samples import QUICK

pytestmark = pytest.mark.slow


def get_all(instance: Instance, path: str, count: int) -> list[str]:
    """The answers to so many requests that are under way together."""
    with ThreadPoolExecutor(count) as pool:
        return [r.text for r in pool.map(instance.http.get, [path] * count)]


def hello() -> str:
    return "hello"


@pytest.fixture(scope="module")
def greeter(keep: Deploy) -> str:
    """A backend and an endpoint at `/hello`."""
    return keep(hello, route="/hello", **QUICK)


# What a backend may be.


def test_a_function_gets_the_request(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(lambda request: f"hello {request.query_params['who']}")
    assert instance.http.get(f"/{name}?who=you").text == "hello you"
    assert ray.get(serve.get_handle(name).remote(who="me")) == "hello me"


def test_a_function_may_take_nothing_at_all(instance: Instance, bring_up: Deploy) -> None:
    def hello() -> str:
        return "hello world"

    name = bring_up(hello)
    assert instance.http.get(f"/{name}").text == "hello world"
    assert ray.get(serve.get_handle(name).remote()) == "hello world"
    assert serve.get_handle(name).call().result() == "hello world"


def test_an_async_function_may_take_nothing_at_all(instance: Instance, bring_up: Deploy) -> None:
    async def hello() -> str:
        return "hello world"

    name = bring_up(hello)
    assert instance.http.get(f"/{name}").text == "hello world"
    assert serve.get_handle(name).call().result() == "hello world"


def test_an_async_backend_works_on_requests_at_once(instance: Instance, bring_up: Deploy) -> None:
    class Meeting:
        def __init__(self) -> None:
            self.count = 0
            self.all_here = asyncio.Event()

        async def __call__(self, request: Any) -> str:
            self.count += 1
            if self.count == 3:
                self.all_here.set()
            await asyncio.wait_for(self.all_here.wait(), 60)
            return "met"

    assert get_all(instance, f"/{bring_up(Meeting)}", 3) == ["met"] * 3


class Crowd:
    """Tells how many requests were inside at once, at most; `?meet` answers once three are."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(3)

    def __call__(self, request: Any) -> Any:
        if "meet" in request.query_params:
            self.barrier.wait(20)
            return "met"
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.05)
        with self.lock:
            self.inside -= 1
        return self.most


def test_a_busy_blocking_backend_does_not_block_its_replica(bring_up: Deploy) -> None:
    class Half:
        def __init__(self) -> None:
            self.free = threading.Event()

        def __call__(self, request: Any) -> str:
            return "freed" if self.free.wait(20) else "stuck"

        async def release(self) -> None:
            self.free.set()

    handle = serve.get_handle(bring_up(Half))
    waiting = handle.call()
    handle.options(method_name="release").call().result(timeout_s=10)
    assert waiting.result() == "freed"


def test_a_blocking_backend_works_on_one_request_at_a_time_until_it_gets_more_threads(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(Crowd)
    assert get_all(instance, f"/{name}", 5) == ["1"] * 5
    serve.update_backend_config(name, {"handler_threads": 3})  # while the replica runs
    assert get_all(instance, f"/{name}?meet", 3) == ["met"] * 3


def test_handler_threads_is_how_many_blocking_requests_run_at_once(
    instance: Instance, bring_up: Deploy
) -> None:
    assert get_all(instance, f"/{bring_up(Crowd, handler_threads=3)}?meet", 3) == ["met"] * 3


def test_a_class_gets_its_arguments_and_keeps_its_state(
    instance: Instance, bring_up: Deploy
) -> None:
    class Counter:
        def __init__(self, start: int, step: int) -> None:
            self.count, self.step = start, step

        def __call__(self, request: Any) -> dict[str, int]:
            self.count += self.step
            return {"count": self.count}

    name = bring_up(Counter, 10, 5)
    assert [instance.http.get(f"/{name}").json()["count"] for _ in range(3)] == [15, 20, 25]


@pytest.mark.parametrize(
    ("path", "args", "answer"),
    [
        ("tests.integration.samples.greet", (), "greetings"),
        ("tests.integration.samples.Adder", (41,), "42"),
    ],
)
def test_an_import_path_is_imported_in_the_replica(
    instance: Instance, bring_up: Deploy, path: str, args: tuple[Any, ...], answer: str
) -> None:
    assert instance.http.get(f"/{bring_up(path, *args)}").text == answer


def test_an_import_path_may_name_an_asgi_application(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up("tests.integration.samples.application")
    assert instance.http.get(f"/{name}/welcome").text == f"welcome to /{name}"


def test_an_import_path_that_leads_nowhere_is_an_error(instance: Instance) -> None:
    with pytest.raises(serve.BackendStartError, match="has no attribute 'nothing'"):
        serve.create_backend("b", "tests.integration.samples.nothing")
    assert "b" not in serve.list_backends()


def test_a_backend_gets_the_resources_it_asks_for(bring_up: Deploy) -> None:
    def spare() -> float:
        return ray.get_runtime_context().get_assigned_resources()["Spare"]

    name = bring_up(spare, actor_options={"num_cpus": 0.5, "resources": {"Spare": 2}})
    assert ray.get(serve.get_handle(name).remote()) == 2


# Configuration.


def test_backends_are_listed_and_an_update_changes_only_the_fields_it_sets(
    instance: Instance,
) -> None:
    async def f() -> None: ...

    serve.create_backend("one", lambda: 1, config=QUICK | {"handler_threads": 2})
    serve.create_backend("two", f, config=serve.BackendConfig(user_config=None))
    threads = {tag: config.handler_threads for tag, config in serve.list_backends().items()}
    assert threads.items() >= {"one": 2, "two": 1}.items()
    assert serve.get_backend_config("one").max_concurrent_queries == 8
    assert serve.get_backend_config("two").max_concurrent_queries == 100
    serve.update_backend_config("one", serve.BackendConfig(queue_timeout_s=7))
    config = serve.get_backend_config("one")
    assert (config.queue_timeout_s, config.handler_threads) == (7, 2)
    assert config.experimental_graceful_shutdown_wait_loop_s == 0.05


class Tuned:
    """Answers with its pid and how it is configured."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def reconfigure(self, user_config: Any) -> None:
        if user_config == "bad":
            raise ArithmeticError("this configuration is bad")
        self.seen.append(user_config)

    def __call__(self, request: Any) -> dict[str, Any]:
        return {"pid": os.getpid(), "seen": self.seen}


@pytest.fixture(scope="module")
def tuned(keep: Deploy) -> str:
    """Two replicas of Tuned."""
    return keep(Tuned, route="/tuned", user_config={"a": 1}, num_replicas=2, **QUICK)


def test_user_config_comes_after_the_constructor_and_at_each_change_without_a_restart(
    instance: Instance, tuned: str
) -> None:
    before = ask_both(instance)
    serve.update_backend_config(tuned, {"user_config": {"a": 2}})
    assert [seen[0] for seen in before.values()] == [{"a": 1}] * 2
    assert ask_both(instance) == {pid: [*seen, {"a": 2}] for pid, seen in before.items()}


def ask_both(instance: Instance) -> dict[int, list[Any]]:
    """What each of the two replicas of `tuned` has seen, by process."""
    seen: dict[int, list[Any]] = {}
    for _ in range(50):
        answer = instance.http.get("/tuned").json()
        seen[answer["pid"]] = answer["seen"]
        if len(seen) == 2:
            break
    return seen


def test_a_reconfigure_that_raises_is_an_error_and_the_old_configuration_stays(
    instance: Instance, tuned: str
) -> None:
    serve.update_backend_config(tuned, {"user_config": "good"})
    before = ask_both(instance)
    with pytest.raises(serve.BackendStartError, match="this configuration is bad") as caught:
        serve.update_backend_config(tuned, {"user_config": "bad", "max_concurrent_queries": 2})
    assert "in reconfigure" in str(caught.value)
    config = serve.get_backend_config(tuned)
    assert (config.user_config, config.max_concurrent_queries) == ("good", 8)
    after = ask_both(instance)
    assert after.keys() == before.keys()
    assert [seen[-1] for seen in after.values()] == ["good"] * 2
    serve.update_backend_config(tuned, {"user_config": "better"})
    assert [seen[-1] for seen in ask_both(instance).values()] == ["better"] * 2


def test_a_user_config_without_reconfigure_is_an_error(instance: Instance) -> None:
    with pytest.raises(
        serve.BackendStartError, match="user_config specified but backend b missing reconfigure"
    ):
        serve.create_backend("b", Crowd, config={"user_config": 1})
    assert "b" not in serve.list_backends()


def test_an_async_reconfigure_is_awaited(instance: Instance, bring_up: Deploy) -> None:
    class Slow:
        async def reconfigure(self, user_config: str) -> None:
            await asyncio.sleep(0)
            self.word = user_config

        async def __call__(self, request: Any) -> str:
            return self.word

    name = bring_up(Slow, user_config="one")
    assert instance.http.get(f"/{name}").text == "one"
    serve.update_backend_config(name, {"user_config": "two"})
    assert instance.http.get(f"/{name}").text == "two"


# Failures at the start.


class Broken:
    def __init__(self, what: str) -> None:
        self.load(what)

    def load(self, what: str) -> None:
        raise LookupError(f"no model called {what}")

    def __call__(self, request: Any) -> None: ...


def test_a_constructor_that_raises_is_an_error_with_the_users_traceback_and_leaves_nothing(
    instance: Instance, greeter: str
) -> None:
    before = serve.list_backends()
    with pytest.raises(serve.BackendStartError) as caught:
        serve.create_backend("b", Broken, "resnet")
    text = str(caught.value)
    assert "LookupError: no model called resnet" in text
    assert "self.load(what)" in text and "test_backends.py" in text
    assert "serve/replica" not in text
    assert serve.list_backends() == before
    serve.create_backend("b", lambda: "second try", config=QUICK)  # the tag is free
    assert serve.list_backends().keys() == before.keys() | {"b"}
    assert instance.http.get("/hello").text == "hello"  # and others run


def test_a_constructor_that_takes_too_long_is_an_error(instance: Instance) -> None:
    class Sleepy:
        def __init__(self) -> None:
            time.sleep(600)

    with pytest.raises(serve.BackendStartError, match="still in its constructor after 1 s"):
        serve.create_backend("b", Sleepy, config={"startup_timeout_s": 1})
    assert "b" not in serve.list_backends()


def test_resources_that_are_not_there_are_an_error_in_time(instance: Instance) -> None:
    with pytest.raises(serve.BackendStartError, match=r"got no resources within 1 s.*'Magic': 1"):
        serve.create_backend(
            "b",
            lambda: 1,
            ray_actor_options={"resources": {"Magic": 1}},
            config={"placement_timeout_s": 1},
        )
    assert "b" not in serve.list_backends()


def test_an_update_that_resources_cannot_meet_is_taken_back(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(lambda: "still here", actor_options={"resources": {"Spare": 3}})
    with pytest.raises(serve.BackendStartError, match="got no resources within 1 s"):
        serve.update_backend_config(name, {"num_replicas": 2, "placement_timeout_s": 1})
    assert serve.get_backend_config(name).num_replicas == 1
    assert serve.get_backend_config(name).placement_timeout_s == 60
    assert instance.http.get(f"/{name}").text == "still here"
    serve.update_backend_config(name, {"queue_timeout_s": 5})


# Scaling and the end.


def test_scaling_up_and_down_fails_no_request(instance: Instance, bring_up: Deploy) -> None:
    async def who() -> str:
        await asyncio.sleep(0.005)
        return serve.get_replica_context().replica_tag

    name = bring_up(who)
    handle = serve.get_handle(name)
    stop = threading.Event()
    tags: set[str] = set()

    def ask_http() -> list[int]:
        statuses = []
        while not stop.is_set():
            response = instance.http.get(f"/{name}")
            statuses.append(response.status_code)
            tags.add(response.headers["x-serve-replica"])
        return statuses

    def ask(call: Callable[[], str]) -> int:
        count = 0
        while not stop.is_set():
            tags.add(call())
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        web = [pool.submit(ask_http) for _ in range(3)]
        asked = [
            pool.submit(ask, lambda: handle.call().result(60)),
            pool.submit(ask, lambda: ray.get(handle.remote())),
        ]
        try:
            for count in (3, 1, 2):
                serve.update_backend_config(name, {"num_replicas": count})
                wait_until(lambda: len(tags) >= 3)  # each of the three has answered
        finally:
            stop.set()
        statuses = [status for future in web for status in future.result()]
        assert set(statuses) == {200}
        assert min(future.result() for future in asked) > 0
    assert len(tags) >= 3


class Slow:
    """Answers after its release."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.free = asyncio.Event()

    async def __call__(self, request: Any) -> str:
        self.begun.set()
        await self.free.wait()
        return "finished"

    async def wait_until_begun(self) -> None:
        await self.begun.wait()

    async def release_soon(self) -> None:
        asyncio.get_running_loop().call_later(0.3, self.free.set)


def begin_slow_request(
    instance: Instance, pool: ThreadPoolExecutor, config: dict[str, Any] | None = None
) -> Any:
    """A request to backend `slow` that is under way, past its endpoint, which is gone."""
    serve.create_backend("slow", Slow, config=QUICK | (config or {}))
    serve.create_endpoint("slow", backend="slow", route="/slow", methods=["POST"])
    request = pool.submit(instance.http.post, "/slow")  # HAProxy would repeat a GET for 5 s
    serve.get_handle("slow").options(method_name="wait_until_begun").call().result(60)
    return request


def test_deleting_a_backend_lets_its_requests_finish(instance: Instance) -> None:
    with ThreadPoolExecutor(1) as pool:
        request = begin_slow_request(instance, pool)
        serve.get_handle("slow").options(method_name="release_soon").call().result(60)
        serve.delete_endpoint("slow")
        serve.delete_backend("slow")
        assert request.result().text == "finished"
    assert "slow" not in serve.list_backends()


def test_deleting_a_backend_by_force_does_not_wait(instance: Instance) -> None:
    grace = {"experimental_graceful_shutdown_timeout_s": 600}  # longer than any test
    with ThreadPoolExecutor(1) as pool:
        request = begin_slow_request(instance, pool, grace)
        serve.delete_endpoint("slow")
        serve.delete_backend("slow", force=True)
        assert request.result().status_code != 200
    assert "slow" not in serve.list_backends()


def test_deleting_an_unknown_backend_is_no_error(instance: Instance) -> None:
    serve.delete_backend("nobody")


def test_a_backend_in_traffic_or_shadows_cannot_be_deleted(
    instance: Instance, tuned: str, greeter: str
) -> None:
    serve.shadow_traffic(tuned, greeter, 1)
    serve.delete_endpoint(greeter)  # the shadow alone keeps its backend
    before = serve.list_backends()
    for tag in (tuned, greeter):
        with pytest.raises(ValueError, match=f"'{tag}' is used by endpoint '{tuned}' and cannot"):
            serve.delete_backend(tag)
    assert serve.list_backends() == before
    serve.shadow_traffic(tuned, greeter, 0)
    serve.create_endpoint(greeter, backend=greeter, route="/hello")


# Wrong calls.

TAKEN = "the tag of a backend that runs"


class Callable_:
    def __call__(self, request: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "words", "arguments", "options"),
    [
        (ValueError, "'{}' is already registered", (TAKEN, hello), {}),
        (TypeError, "must be a function, a class", ("b", 5), {}),
        (TypeError, "must be a function, a class", ("b", Callable_()), {}),
        (TypeError, "backend_tag must be a str", (5, hello), {}),
        (ValueError, "init_args not supported for function", ("b", hello, 1), {}),
        (TypeError, "config must be a BackendConfig or dict", ("b", hello), {"config": 5}),
        (ValidationError, "num_replica\n", ("b", hello), {"config": {"num_replica": 1}}),
        (ValidationError, "num_replicas\n", ("b", hello), {"config": {"num_replicas": 0}}),
        (ValueError, "does not accept batches", ("b", hello), {"config": {"max_batch_size": 2}}),
        (ValueError, "is a function and has no", ("b", hello), {"config": {"user_config": 1}}),
        (TypeError, "must be a dictionary", ("b", hello), {"ray_actor_options": 5}),
        (ValueError, "Specifying name in", ("b", hello), {"ray_actor_options": {"name": "x"}}),
        (ValueError, "Specifying lifetime", ("b", hello), {"ray_actor_options": {"lifetime": 1}}),
        (
            ValueError,
            "Specifying max_restarts",
            ("b", hello),
            {"ray_actor_options": {"max_restarts": 1}},
        ),
        (
            ValueError,
            "Specifying placement_group",
            ("b", hello),
            {"ray_actor_options": {"placement_group": None}},
        ),
        (TypeError, "num_cpus in", ("b", hello), {"ray_actor_options": {"num_cpus": "1"}}),
        (ValueError, "num_gpus in", ("b", hello), {"ray_actor_options": {"num_gpus": -1}}),
        (TypeError, "memory in", ("b", hello), {"ray_actor_options": {"memory": []}}),
        (TypeError, "resources in", ("b", hello), {"ray_actor_options": {"resources": []}}),
    ],
)
def test_a_wrong_create_backend_raises_and_changes_nothing(
    greeter: str,
    kind: type[Exception],
    words: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    tag, *rest = arguments
    before = serve.list_backends()
    with pytest.raises(kind, match=words.format(greeter)) as caught:
        serve.create_backend(greeter if tag is TAKEN else tag, *rest, **options)
    assert type(caught.value) is kind
    assert serve.list_backends() == before


@pytest.mark.parametrize(
    ("kind", "words", "options"),
    [
        (ValueError, "Ray does not take num_cpu .* Did you mean 'num_cpus'?", {"num_cpu": 1}),
        (ValueError, "Ray does not take nonsense .* usual ones: accel", {"nonsense": 1}),
        (ValueError, "num_cpus in ray_actor_options must be >= 0. Got -1.", {"num_cpus": -1}),
        (TypeError, "accelerator_type .* received type <class 'int'>", {"accelerator_type": 5}),
        (ValueError, "take label_selector .* `!in\\(", {"label_selector": {"a": "!in("}}),
        (ValueError, "one of DEFAULT, SPREAD", {"scheduling_strategy": "FAR"}),
        (TypeError, "'env_vars'", {"runtime_env": {"env_vars": {"A": 1}}}),
        (ValueError, "/nowhere", {"runtime_env": {"working_dir": "/nowhere"}}),
        (ValueError, "nowhere.txt is not a valid file", {"runtime_env": {"pip": "nowhere.txt"}}),
    ],
)
def test_options_that_ray_refuses_are_refused_at_once(
    instance: Instance, kind: type[Exception], words: str, options: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=f"^Backend 'picky': .*{words}") as caught:
        serve.create_backend("picky", hello, ray_actor_options=options)
    assert type(caught.value) is kind
    assert "picky" not in serve.list_backends()


def test_after_options_that_ray_refuses_good_ones_work(instance: Instance) -> None:
    with pytest.raises(ValueError, match="Backend 'picky': num_cpus"):
        serve.create_backend("picky", hello, ray_actor_options={"num_cpus": -1})
    serve.create_backend("picky", hello, ray_actor_options={"num_cpus": 0}, config=QUICK)
    assert "picky" in serve.list_backends()


def test_options_that_ray_refuses_only_when_it_starts_an_actor_are_told_in_its_words(
    instance: Instance,
) -> None:
    options = {"num_cpus": 0, "allow_out_of_order_execution": False}
    with pytest.raises(serve.BackendStartError, match="allow_out_of_order_execution"):
        serve.create_backend("late", hello, ray_actor_options=options)
    assert "late" not in serve.list_backends()


@pytest.mark.parametrize(
    ("kind", "words", "tag", "change"),
    [
        (TypeError, "config_options must be a BackendConfig or dict", TAKEN, 5),
        (TypeError, "config_options must be a BackendConfig or dict", TAKEN, None),
        (ValueError, "Backend nobody is not registered", "nobody", {"num_replicas": 2}),
        (ValidationError, "num_replica\n", TAKEN, {"num_replica": 2}),
        (ValidationError, "num_replicas\n", TAKEN, {"num_replicas": -1}),
        (ValueError, "does not accept batches", TAKEN, {"max_batch_size": 2}),
        (ValueError, "is a function and has no", TAKEN, {"user_config": 1}),
    ],
)
def test_a_wrong_update_raises_and_changes_nothing(
    greeter: str, kind: type[Exception], words: str, tag: str, change: Any
) -> None:
    before = serve.get_backend_config(greeter)
    with pytest.raises(kind, match=words) as caught:
        serve.update_backend_config(greeter if tag is TAKEN else tag, change)
    assert type(caught.value) is kind
    assert serve.get_backend_config(greeter) == before


def test_the_configuration_of_an_unknown_backend_is_a_value_error(
    shared_instance: Instance,
) -> None:
    with pytest.raises(ValueError, match="Backend nobody is not registered"):
        serve.get_backend_config("nobody")
