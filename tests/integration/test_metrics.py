"""Every number counts what it says, exactly: on Ray's metrics port and on the ingress's page."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from ray.util import metrics as ray_metrics

import serve
from observability.catalog import (
    EXTRA_METRICS,
    METRICS,
    SEED_METRICS,
    SPANS_DROPPED,
    Metric,
    MetricKind,
)
from serve import metrics
from serve.controller.observed import Phase
from tests.conftest import free_port
from tests.integration.conftest import Deploy, Instance
from tests.integration.processes import run_script, wait_until
from tests.integration.series import (
    Series,
    page,
    page_address,
    page_at_once,
    parse,
    tags_of,
    total,
)

# Spans are counted only where traces are on: test_tracing_off.py looks for those.
WITHOUT_TRACES = [metric for metric in METRICS if metric is not SPANS_DROPPED]
RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


def hello(request: Any) -> str:
    return "hello"


def sometimes(request: Any) -> str:
    if request.query_params.get("fail"):
        raise ValueError("asked for")
    return "well"


def pid_of(request: Any) -> int:
    return os.getpid()


class Holding:
    """Answers when it is told to."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def __call__(self, request: Any) -> str:
        while not os.path.exists(self.path):
            await asyncio.sleep(0.01)
        return "let go"


class Stuck:
    """Blocks its event loop until it is told to go on."""

    def __init__(self, begun: str, go_on: str) -> None:
        self.begun, self.go_on = Path(begun), Path(go_on)

    async def __call__(self, request: Any) -> str:
        self.begun.touch()
        while not self.go_on.exists():
            time.sleep(0.01)
        return "free"


class Counting:
    """The seed's snippet, and ours."""

    def __init__(self) -> None:
        self.seeds = ray_metrics.Counter(
            "my_counter", description="As in the tutorial.", tag_keys=("backend",)
        ).set_default_tags({"backend": serve.get_current_backend_tag()})
        self.ours = metrics.Counter("our_counter", "Ours.", tag_keys=("kind",))
        self.level = metrics.Gauge("our_level", "Ours.")
        self.sizes = metrics.Histogram("our_sizes", "Ours.", boundaries=[10, 100])

    def __call__(self, request: Any) -> str:
        self.seeds.inc()
        self.ours.inc(2, tags={"kind": "a"})
        self.level.set(7)
        self.sizes.observe(50)
        return "counted"


@serve.accept_batch
def batched(requests: list[Any]) -> list[int]:
    return [len(requests)] * len(requests)


@pytest.fixture(scope="module")
def greeter(keep: Deploy) -> str:
    """A backend of `hello`, at `/greeter`."""
    return keep(hello, route="/greeter")


@pytest.fixture
def ray_port(ray_metrics_port: int) -> Callable[[], list[Series]]:
    """What Ray's port tells of serving, and of the tests' own metrics."""
    ours = ("ray_serve_", "ray_my_", "ray_our_")

    def ask() -> list[Series]:
        time.sleep(0.2)  # the node hears of news once a second, and writes 300 KB for an answer
        text = httpx.get(f"http://127.0.0.1:{ray_metrics_port}", timeout=30).text
        lines = (line for line in text.splitlines() if line.startswith(ours))
        return parse("".join(f"{line}\n" for line in lines))

    return ask


def test_counts_on_the_page_are_exact_with_the_last_answer(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(sometimes, num_replicas=2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: instance.http.get(f"/{name}"), range(100)))
        list(pool.map(lambda _: instance.http.get(f"/{name}?fail=1"), range(20)))
    handle = serve.get_handle(name)
    for _ in range(5):
        handle.call().result(60)

    series = page()

    def count(metric: str, **labels: str) -> float:
        return total(series, f"ray_{metric}_total", **labels)

    assert count("serve_backend_request_counter", backend=name) == 105
    assert count("serve_backend_error_counter", backend=name) == 20
    assert count("serve_num_http_requests", route=f"/{name}") == 120
    assert count("serve_num_router_requests", endpoint=name) == 125
    assert count("serve_endpoint_requests", endpoint=name, status_class="2xx") == 105
    assert count("serve_endpoint_requests", endpoint=name, status_class="5xx") == 20
    assert len(tags_of(series, "ray_serve_backend_request_counter_total", backend=name)) == 2
    for histogram in ("queuing", "processing"):
        counted = f"ray_serve_backend_{histogram}_latency_ms_count"
        assert total(series, counted, backend=name) == 125


def test_rays_port_has_the_same_counts_after_two_seconds_of_rest(
    instance: Instance, deploy: Deploy, ray_port: Callable[[], list[Series]]
) -> None:
    name = deploy(hello, route="/rested", num_replicas=2)
    for _ in range(50):
        instance.http.get("/rested")
    handle = serve.get_handle(name)
    for _ in range(4):
        handle.call().result(60)

    def counts() -> list[float]:
        series = ray_port()
        return [
            total(series, "ray_serve_backend_request_counter_total", backend=name),
            total(series, "ray_serve_num_http_requests_total", route="/rested"),
            total(series, "ray_serve_backend_processing_latency_ms_count", backend=name),
            total(series, "ray_serve_handle_request_counter_total", endpoint=name),
        ]

    wait_until(lambda: counts() == [54, 50, 54, 4])
    time.sleep(2)
    assert counts() == [54, 50, 54, 4]


def test_the_names_types_and_tags_are_the_catalogues(
    instance: Instance, greeter: str, ray_metrics_port: int
) -> None:
    instance.http.get("/greeter")
    instance.http.get("/nowhere")
    serve.get_handle(greeter).call().result(60)

    texts = [
        httpx.get(f"http://{page_address()}/metrics", timeout=30).text,
        wait_until(lambda: read_once_complete(ray_metrics_port)),
    ]

    for text, histogram_is in zip(texts, ("histogram", "gauge"), strict=True):
        families = {family.name: family for family in text_string_to_metric_families(text)}
        for metric in WITHOUT_TRACES:
            if metric.name == "serve_handle_request_counter" and text is texts[0]:
                continue  # the driver's: it has no page
            suffix = "_bucket" if histogram_is == "gauge" else ""
            is_histogram = metric.kind is MetricKind.HISTOGRAM
            family = families[f"ray_{metric.name}{suffix if is_histogram else ''}"]
            assert family.type == (histogram_is if is_histogram else metric.kind.value)
            assert family.documentation == metric.description
            own = [s for s in family.samples if not s.name.endswith(("_sum", "_count"))]
            allowed = {*metric.tags, *RAYS_OWN, *(["le"] if is_histogram else [])}
            for sample in own:
                tags = {key for key in sample.labels if not key.startswith("otel_")}
                assert tags <= allowed, f"{sample} has more tags than {sorted(allowed)}"
                assert set(metric.tags) <= tags | {"replica", "backend", "endpoint"}


def read_once_complete(port: int) -> str:
    text = httpx.get(f"http://127.0.0.1:{port}", timeout=30).text
    return text if all(is_told(text, metric) for metric in WITHOUT_TRACES) else ""


def is_told(text: str, metric: Metric) -> bool:
    return f"\nray_{metric.name}" in text


def test_the_catalogue_has_the_seeds_eleven() -> None:
    assert [metric.name for metric in SEED_METRICS] == [
        "serve_backend_request_counter",
        "serve_backend_error_counter",
        "serve_backend_replica_starts",
        "serve_backend_queuing_latency_ms",
        "serve_backend_processing_latency_ms",
        "serve_replica_queued_queries",
        "serve_replica_processing_queries",
        "serve_num_http_requests",
        "serve_num_router_requests",
        "serve_handle_request_counter",
        "serve_backend_queued_queries",
    ]
    assert not set(SEED_METRICS) & set(EXTRA_METRICS)


def test_only_restarts_after_a_failure_count_as_such(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(pid_of)
    pid = instance.http.get(f"/{name}").json()
    starts = "ray_serve_backend_replica_starts_total"
    assert total(page(), starts, backend=name) == 0

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: total(page(), starts, backend=name) == 1)
    wait_until(lambda: total(page(), "ray_serve_replica_state", backend=name, state="RUNNING") == 1)


def test_an_idle_replica_shows_nothing_in_progress_and_a_busy_one_what_it_does(
    instance: Instance, bring_up: Deploy, tmp_path: Any
) -> None:
    let_go = tmp_path / "go"
    name = bring_up(Holding, str(let_go), max_concurrent_queries=2)

    def gauges() -> tuple[float, float]:
        series = page()
        return (
            total(series, "ray_serve_replica_processing_queries", backend=name),
            total(series, "ray_serve_backend_queued_queries", backend=name, endpoint=name),
        )

    assert gauges() == (0, 0)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(httpx.get, instance.url(f"/{name}"), timeout=30) for _ in range(5)]
        wait_until(lambda: gauges() == (2, 3))
        let_go.touch()
        assert {answer.result(60).text for answer in answers} == {"let go"}
    wait_until(lambda: gauges() == (0, 0))


def test_calls_that_wait_in_a_handle_are_told_on_rays_port(
    instance: Instance,
    deploy: Deploy,
    ray_port: Callable[[], list[Series]],
    tmp_path: Any,
) -> None:
    let_go = tmp_path / "go"
    name = deploy(Holding, str(let_go), max_concurrent_queries=1)
    handle = serve.get_handle(name)
    answers = [handle.call() for _ in range(4)]

    def queued() -> float:
        return total(ray_port(), "ray_serve_backend_queued_queries", backend=name, endpoint=name)

    wait_until(lambda: queued() == 3)
    let_go.touch()
    assert [answer.result(60) for answer in answers] == ["let go"] * 4
    wait_until(lambda: queued() == 0)


def test_the_size_of_a_batch_is_a_tag(instance: Instance, bring_up: Deploy) -> None:
    name = bring_up(batched, max_batch_size=4, batch_wait_timeout=600)
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: instance.http.get(f"/{name}").json(), range(4)))
    assert sizes == [4] * 4

    counted = "ray_serve_backend_processing_latency_ms_count"
    assert total(page(), counted, backend=name, batch_size="4") == 4


def test_paths_that_clients_make_up_make_no_series(instance: Instance, greeter: str) -> None:
    serve.create_endpoint("made", backend=greeter, route="/real")

    def ask(number: int) -> None:
        assert instance.http.get(f"/made/up/{number}").status_code == 404
        assert instance.http.get(f"/real?q={number}").status_code == 200

    ask(0)  # the first ones make the endpoint's series
    before = len(page())
    for number in range(1, 31):
        ask(number)

    series = page()

    assert total(series, "ray_serve_num_http_requests_total", route="unmatched") >= 31
    assert total(series, "ray_serve_num_http_requests_total", route="/real") == 31
    assert len(series) - before < 10


def test_the_route_is_the_pattern(instance: Instance, greeter: str) -> None:
    serve.create_endpoint("pattern", backend=greeter, route="/users/{user}")
    for user in ("ann", "bob"):
        assert instance.http.get(f"/users/{user}").status_code == 200

    routes = {tags["route"] for tags in tags_of(page(), "ray_serve_num_http_requests_total")}
    assert "/users/{user}" in routes
    assert not {"/users/ann", "/users/bob"} & routes


def test_own_metrics_tell_backend_and_replica_by_themselves(
    instance: Instance, deploy: Deploy, ray_port: Callable[[], list[Series]]
) -> None:
    name = deploy(Counting, route="/counting")
    replica = instance.http.get("/counting").headers["X-Serve-Replica"]
    instance.http.get("/counting")
    own = {"backend": name, "replica": replica}

    series = page()
    assert total(series, "ray_our_counter_total", kind="a", **own) == 4
    assert total(series, "ray_our_level", **own) == 7
    assert total(series, "ray_our_sizes_bucket", le="100.0", **own) == 2
    assert total(series, "ray_our_sizes_bucket", le="10.0", **own) == 0

    wait_until(lambda: total(ray_port(), "ray_our_counter_total", kind="a", **own) == 4)
    wait_until(lambda: total(ray_port(), "ray_my_counter_total", backend=name) == 2)


def test_a_replica_that_is_gone_leaves_the_page_with_its_series(
    instance: Instance, bring_up: Deploy
) -> None:
    name = bring_up(hello, num_replicas=2)
    assert len(tags_of(page(), "ray_serve_replica_loop_lag_ms", backend=name)) == 2

    serve.update_backend_config(name, {"num_replicas": 1})

    (left,) = [
        tag
        for tag, view in serve.connect().status().observed.replicas.items()
        if view.backend_tag == name and view.phase is Phase.RUNNING
    ]

    def told() -> set[str]:
        of_backend = [tags for _, tags, _ in page() if tags.get("backend") == name]
        return {tags["replica"] for tags in of_backend if "replica" in tags}

    wait_until(lambda: told() == {left})


def test_a_replica_that_is_too_busy_to_answer_keeps_its_last_numbers(
    instance: Instance, bring_up: Deploy, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    name = bring_up(Stuck, str(begun), str(go_on))
    counted = "ray_serve_backend_request_counter_total"

    def is_counter(found: str, tags: dict[str, str]) -> bool:
        return found == counted and tags.get("backend") == name

    assert total(page(), counted, backend=name) == 0  # it is known from now on
    caller = threading.Thread(
        target=httpx.get, args=[instance.url(f"/{name}")], kwargs={"timeout": 30}
    )
    caller.start()
    try:
        wait_until(begun.exists)
        series = page_at_once()  # the page asks it, and its loop is blocked
        assert caller.is_alive(), "it was free before the page came"
        assert [value for found, tags, value in series if is_counter(found, tags)] == [0]
    finally:
        go_on.touch()
        caller.join(30)
    wait_until(lambda: total(page(), counted, backend=name) == 1)


def test_after_a_clean_shutdown_the_counts_are_complete(
    ray_cluster: None, ray_address: str, ray_port: Callable[[], list[Series]]
) -> None:
    ran = run_script(
        """
        import sys, requests, ray, serve

        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        port = int(sys.argv[2])
        serve.start(http_options={"port": port})
        serve.create_backend("shut", lambda request: "x", config={"num_replicas": 2})
        serve.create_endpoint("shut", backend="shut", route="/shut")
        session = requests.Session()
        for _ in range(200):
            assert session.get(f"http://127.0.0.1:{port}/shut").status_code == 200
        serve.shutdown()
        """,
        ray_address,
        free_port(),
    )
    assert ran.returncode == 0, ran.stderr

    def counts() -> list[float]:
        series = ray_port()
        return [
            total(series, "ray_serve_backend_request_counter_total", backend="shut"),
            total(series, "ray_serve_endpoint_requests_total", endpoint="shut"),
        ]

    wait_until(lambda: counts() == [200, 200])


def test_a_metrics_port_that_is_taken_is_named_and_without_an_admin_host_there_is_none(
    ray_cluster: None, ray_address: str
) -> None:
    ran = run_script(
        """
        import socket, sys, ray, serve

        ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
        taker = socket.create_server(("127.0.0.1", 0))
        taken = taker.getsockname()[1]
        port = int(sys.argv[2])
        try:
            serve.start(http_options={"port": port, "admin_port": taken})
        except ValueError as error:
            print(taken, error)
        client = serve.start(http_options={"port": port, "admin_host": None})
        (view,) = client.status().observed.ingresses.values()
        print([view.address, view.admin_address])
        serve.shutdown()
        """,
        ray_address,
        port := free_port(),
    )
    message, _, addresses = ran.stdout.strip().rpartition("\n")
    taken, _, message = message.partition(" ")
    assert f"127.0.0.1:{taken}" in message, ran.stderr
    assert "admin_port" in message
    assert addresses == str([f"127.0.0.1:{port}", ""]), ran.stderr


def test_the_public_port_does_not_tell_the_metrics(instance: Instance) -> None:
    for path in ("/metrics", "/-/metrics"):
        assert instance.http.get(path).status_code == 404
