"""The user's callable inside a replica: how it is built, found, run and reconfigured."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import serve
from serve.config import BackendConfig
from serve.definition import Definition, inspect_target
from serve.errors import RayServeException
from serve.replica.callable import UserCallable
from serve.replica.threads import HandlerThreads

Make = Callable[..., Awaitable[UserCallable]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Builds a callable as a replica does."""
    made: list[HandlerThreads] = []

    async def build(target: Any, *init_args: Any, **options: Any) -> UserCallable:
        made.append(HandlerThreads(1))
        traits = inspect_target(target, init_args)
        config = BackendConfig(**options)
        user = UserCallable("b", Definition(target, init_args), traits, config, made[-1])
        await user.build()
        return user

    yield build
    for threads in made:
        threads.stop()


async def run(user: UserCallable, request: object = None, name: str = "__call__") -> Any:
    return await user.run(name, user.find(name), request)


@pytest.mark.parametrize("is_async", [False, True])
async def test_named_arguments_reach_the_constructor(is_async: bool) -> None:
    class Pair:
        def __init__(self, left: int, *, right: int) -> None:
            self.both = (left, right)

        def __call__(self) -> tuple[int, int]:
            return self.both

    class AsyncPair(Pair):
        async def __call__(self) -> tuple[int, int]:  # type: ignore[override]
            return self.both

    definition = Definition(AsyncPair if is_async else Pair, (1,), {"right": 2})
    threads = HandlerThreads(1)
    try:
        user = UserCallable("b", definition, definition.inspect(), BackendConfig(), threads)
        await user.build()
        assert await run(user) == (1, 2)
    finally:
        threads.stop()


def where() -> str:
    return threading.current_thread().name


class Blocking:
    def __init__(self) -> None:
        self.built_in = where()
        self.configs: list[Any] = []

    def reconfigure(self, config: Any) -> None:
        self.configs.append((config, where()))

    def __call__(self, request: Any) -> str:
        return where()

    async def on_the_loop(self, request: Any) -> str:
        return where()

    def report(self) -> tuple[str, list[Any]]:
        return self.built_in, self.configs


class Asynchronous:
    def __init__(self) -> None:
        self.built_in = where()

    async def __call__(self, request: Any) -> tuple[str, str]:
        return self.built_in, where()

    def blocking(self, request: Any) -> str:
        return where()


async def test_blocking_code_runs_in_the_handler_threads_its_constructor_included(
    make: Make,
) -> None:
    user = await make(Blocking)
    assert await run(user) == "handler"
    assert (await run(user, name="report"))[0] == "handler"


async def test_async_code_runs_on_the_loop_its_constructor_included(make: Make) -> None:
    assert await run(await make(Asynchronous)) == (where(), where())


async def test_each_method_runs_the_way_it_needs(make: Make) -> None:
    assert await run(await make(Blocking), name="on_the_loop") == where()
    assert await run(await make(Asynchronous), name="blocking") == "handler"


async def test_a_function_gets_the_request_if_it_wants_it(make: Make) -> None:
    async def nothing() -> str:
        return "nothing"

    assert await run(await make(lambda request: request), 7) == 7
    assert await run(await make(lambda: "nothing"), 7) == "nothing"
    assert await run(await make(nothing), 7) == "nothing"


async def test_a_failing_constructor_raises_what_the_users_code_raised(make: Make) -> None:
    class Fail:
        def __init__(self) -> None:
            raise ZeroDivisionError("boom")

    with pytest.raises(ZeroDivisionError, match="boom"):
        await make(Fail)


async def test_constructor_arguments_arrive(make: Make) -> None:
    class Keep:
        def __init__(self, *args: Any) -> None:
            self.args = args

        def __call__(self, request: Any) -> Any:
            return self.args

    assert await run(await make(Keep, 1, "two")) == (1, "two")


async def test_a_user_config_reaches_reconfigure_after_the_constructor_and_at_each_change(
    make: Make,
) -> None:
    user = await make(Blocking, user_config={"a": 1})
    await user.reconfigure(BackendConfig(user_config={"a": 2}))
    assert (await run(user, name="report"))[1] == [({"a": 1}, "handler"), ({"a": 2}, "handler")]


async def test_a_change_without_a_user_config_calls_no_reconfigure(make: Make) -> None:
    user = await make(Blocking)
    await user.reconfigure(BackendConfig(num_replicas=2))
    assert (await run(user, name="report"))[1] == []


async def test_an_async_reconfigure_is_awaited(make: Make) -> None:
    class Model:
        async def reconfigure(self, config: Any) -> None:
            await asyncio.sleep(0)
            self.config = config

        async def __call__(self, request: Any) -> Any:
            return self.config

    assert await run(await make(Model, user_config=5)) == 5


async def test_a_user_config_without_a_reconfigure_method_is_an_error(make: Make) -> None:
    with pytest.raises(
        RayServeException, match="user_config specified but backend b missing reconfigure method"
    ):
        await make(Asynchronous, user_config=1)


@pytest.mark.parametrize("name", ["missing", "_secret", "__init__", "__dict__", "text"])
async def test_a_missing_method_names_those_there_are(make: Make, name: str) -> None:
    class Model:
        text = "no method"

        def __call__(self, request: Any) -> None: ...

        def predict(self, request: Any) -> None: ...

        def _secret(self, request: Any) -> None: ...

    user = await make(Model)
    with pytest.raises(
        RayServeException,
        match=rf"Backend doesn't have method {name} which is specified in the request\. "
        r"The available methods are \['__call__', 'predict'\]",
    ):
        user.find(name)


async def test_a_function_has_one_method_only(make: Make) -> None:
    user = await make(lambda request: 1)
    with pytest.raises(RayServeException, match=r"available methods are \['__call__'\]"):
        user.find("__name__")


async def test_a_marked_function_gets_lists_and_gives_lists(make: Make) -> None:
    sizes = []

    @serve.accept_batch
    def double(requests: list[int]) -> list[int]:
        sizes.append(len(requests))
        return [2 * request for request in requests]

    user = await make(double, max_batch_size=3)
    assert await asyncio.gather(*(run(user, n) for n in range(5))) == [0, 2, 4, 6, 8]
    assert sizes == [3, 2]


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_marked_class_gets_lists(make: Make, is_async: bool) -> None:
    @serve.accept_batch
    class Blocks:
        def __call__(self, requests: list[int]) -> list[int]:
            return [len(requests)] * len(requests)

    @serve.accept_batch
    class Awaits:
        async def __call__(self, requests: list[int]) -> list[int]:
            return [len(requests)] * len(requests)

    user = await make(Awaits if is_async else Blocks, max_batch_size=2)
    assert await asyncio.gather(run(user), run(user)) == [2, 2]


async def test_without_a_batch_size_a_marked_callable_gets_lists_of_one(make: Make) -> None:
    user = await make(serve.accept_batch(lambda requests: [len(requests)] * len(requests)))
    assert await asyncio.gather(run(user), run(user)) == [1, 1]


async def test_calls_of_different_methods_are_not_in_one_batch(make: Make) -> None:
    class Model:
        @serve.accept_batch
        def __call__(self, requests: list[int]) -> list[Any]:
            return [("call", len(requests))] * len(requests)

        @serve.accept_batch
        def other(self, requests: list[int]) -> list[Any]:
            return [("other", len(requests))] * len(requests)

    user = await make(Model, max_batch_size=10)
    answers = await asyncio.gather(run(user), run(user, name="other"), run(user))
    assert answers == [("call", 2), ("other", 1), ("call", 2)]


async def test_a_changed_batch_size_holds_for_the_next_batches(make: Make) -> None:
    user = await make(
        serve.accept_batch(lambda requests: [len(requests)] * len(requests)), max_batch_size=1
    )
    assert await asyncio.gather(run(user), run(user)) == [1, 1]
    await user.reconfigure(BackendConfig(max_batch_size=2))
    assert await asyncio.gather(run(user), run(user)) == [2, 2]


async def test_more_handler_threads_run_more_blocking_calls_at_once(make: Make) -> None:
    meeting = threading.Barrier(2, timeout=10)
    user = await make(lambda request: meeting.wait())
    await user.reconfigure(BackendConfig(handler_threads=2))
    await asyncio.gather(run(user), run(user))


async def test_a_discarded_callable_is_gone_at_once(make: Make) -> None:
    gone = threading.Event()

    class Model:
        async def __call__(self, request: Any) -> int:
            return 1

        def __del__(self) -> None:
            gone.set()

    user = await make(Model)
    await run(user)
    user.discard()
    assert gone.is_set()
