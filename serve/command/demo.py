"""`tagtrail demo`: two real models as two backends behind one endpoint, asked over HTTP.

scikit-learn's handwritten digits come with the package, so nothing is downloaded.
"""

from __future__ import annotations

import logging
import socket
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import ray
import requests
from rich.console import Console
from rich.progress import track
from rich.table import Table

import serve
from observability.trail.segments import SegmentFolder
from observability.trail.show import show_request
from observability.trail.source import find_request
from serve.command.tables import print_status
from serve.session import segment_folder
from serve.status import describe

logger = logging.getLogger(__name__)

CLIENTS = 8
SHOWN = 5
REQUEST_TIMEOUT_S = 30.0
TRAFFIC = {"digits_v1": 0.9, "digits_v2": 0.1}


class DemoError(Exception):
    """The demo can't go on; the message says what to do."""


@dataclass(frozen=True)
class Answer:
    """What came back for one image."""

    index: int
    label: int
    predicted: int
    backend: str
    replica: str
    request_id: str
    latency_ms: float


class DigitsModel:
    """A backend: reads 64 grey values, answers with the digit it takes them for."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def __call__(self, request: Any) -> dict[str, int]:
        """One prediction."""
        pixels = await request.json()
        digit = int(self._model.predict([pixels])[0])
        logger.info("It looks like a %d", digit)
        return {"digit": digit}


def run_demo(*, keep: bool, port: int | None, images: int | None) -> None:
    """Run the whole demo on a Ray of its own.

    Args:
        keep: wait for Ctrl-C before everything is ended.
        port: HTTP port; None: a free one.
        images: how many held-out images to send; None: all.

    Raises:
        DemoError: scikit-learn is missing, or a request was not answered.
    """
    console = Console()
    console.print("[bold]1[/] Training two models on scikit-learn's handwritten digits")
    models, held_out = _train()
    console.print("[bold]2[/] Starting Ray and Serve on this machine (takes some seconds)")
    port = port or _free_port()
    ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        client = serve.start(detached=True, http_options={"port": port})
        console.print(f"[bold]3[/] Deploying {_traffic_text()} behind the endpoint 'digits'")
        _deploy(models)
        url = f"http://127.0.0.1:{port}/digits"
        answers = _ask(url, held_out[:images], console)
        _show(answers, console)
        console.print("\n[bold]5[/] tagtrail status")
        print_status(describe(client.status(), client.controller_name))
        _show_trail(answers, console)
        if keep:
            _wait(url, console)
    finally:
        serve.shutdown()
        ray.shutdown()
    console.print("Serve and Ray are shut down.")


def _train() -> tuple[dict[str, Any], list[tuple[list[float], int]]]:
    try:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split
        from sklearn.svm import SVC
    except ImportError:
        raise DemoError(
            "The demo needs scikit-learn. Install it with: pip install 'tagtrail[demo]'"
        ) from None
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=0.5, random_state=0
    )
    models = {
        "digits_v1": LogisticRegression(max_iter=2000).fit(train_x, train_y),
        "digits_v2": SVC(gamma=0.001).fit(train_x, train_y),
    }
    held_out = [(pixels.tolist(), int(label)) for pixels, label in zip(test_x, test_y, strict=True)]
    return models, held_out


def _deploy(models: dict[str, Any]) -> None:
    for tag, model in models.items():
        serve.create_backend(tag, DigitsModel, model, ray_actor_options={"num_cpus": 0.5})
    serve.create_endpoint("digits", backend="digits_v1", route="/digits", methods=["POST"])
    serve.set_traffic("digits", TRAFFIC)


def _ask(url: str, images: list[tuple[list[float], int]], console: Console) -> list[Answer]:
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CLIENTS))

    def ask(numbered: tuple[int, tuple[list[float], int]]) -> Answer:
        index, (pixels, label) = numbered
        started = time.perf_counter()
        response = session.post(url, json=pixels, timeout=REQUEST_TIMEOUT_S)
        latency_ms = (time.perf_counter() - started) * 1000
        if response.status_code != 200:
            raise DemoError(f"{url} answered {response.status_code}: {response.text}")
        headers = response.headers
        return Answer(
            index,
            label,
            response.json()["digit"],
            headers["X-Serve-Backend"],
            headers["X-Serve-Replica"],
            headers["X-Request-ID"],
            latency_ms,
        )

    with ThreadPoolExecutor(CLIENTS) as pool, session:
        asked: Iterable[Answer] = pool.map(ask, enumerate(images))
        title = f"[bold]4[/] Sending {len(images)} held-out images to {url}"
        return list(track(asked, title, total=len(images), console=console))


def _show(answers: list[Answer], console: Console) -> None:
    table = Table("Image", "Is", "Answer", "Backend", "Replica", "Request id", title="Some answers")
    for answer in _some(answers):
        table.add_row(
            str(answer.index),
            str(answer.label),
            f"[{'green' if answer.predicted == answer.label else 'red'}]{answer.predicted}[/]",
            answer.backend,
            answer.replica,
            answer.request_id,
        )
    console.print(table)
    table = Table("Backend", "Requests", "Accuracy", "p50 ms", "p99 ms", title="By backend")
    for tag in sorted({answer.backend for answer in answers}):
        own = [answer for answer in answers if answer.backend == tag]
        latencies = sorted(answer.latency_ms for answer in own)
        table.add_row(
            tag,
            str(len(own)),
            f"{sum(a.predicted == a.label for a in own) / len(own):.1%}",
            f"{statistics.median(latencies):.1f}",
            f"{latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))]:.1f}",
        )
    console.print(table)


def _some(answers: list[Answer]) -> list[Answer]:
    """A few answers: the first ones, and the first of each backend."""
    shown = {answer.index: answer for answer in answers[:SHOWN]}
    for tag in TRAFFIC:
        for answer in [a for a in answers if a.backend == tag][:2]:
            shown[answer.index] = answer
    return sorted(shown.values(), key=lambda answer: answer.index)


def _show_trail(answers: list[Answer], console: Console) -> None:
    """The trail of one request, the last that the smaller model answered."""
    rare = [answer for answer in answers if answer.backend == "digits_v2"] or answers
    request_id = rare[-1].request_id
    console.print(f"\n[bold]6[/] tagtrail trace {request_id}")
    source = SegmentFolder(Path(segment_folder()))
    for line in show_request(find_request(source, request_id), request_id):
        click.echo(line)


def _wait(url: str, console: Console) -> None:
    console.print(
        "\nIt stays until Ctrl-C. In another terminal, try:\n"
        f"  curl {url.rsplit('/', 1)[0]}/-/routes\n"
        f"  curl -i -X POST -H 'X-Request-ID: mine' -d '{[0] * 64}' {url}\n"
        "  tagtrail status\n"
        "  tagtrail logs --follow\n"
        "  tagtrail trace mine",
        highlight=False,
        soft_wrap=True,
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print()


def _traffic_text() -> str:
    return " and ".join(f"'{tag}' ({share:.0%})" for tag, share in TRAFFIC.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
