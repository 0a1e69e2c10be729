"""docs/following.md, done as a reader does it: each line that a command prints is the page's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.integration.clusters import head_node, user_environment
from tests.integration.command import type_in
from tests.integration.processes import ROOT

PAGE = (ROOT / "docs" / "following.md").read_text()
EXAMPLE = (ROOT / "examples" / "following.py").read_text()
SHOWN_S = 90
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)

NOT_THE_SAME = (
    (r"  ◀ .*", ""),  # what took most of the time, the machine decides
    (r"\|[ ░█]{20}\|", "|bar|"),
    (r"#[A-Za-z]{6}\b", "#letters"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", "TIME"),
    (r" \((?:sender|replica|batch) [^)]*\)", ""),  # what took less than a millisecond is not told
    (r"  (?:waited|sent) [\d.]+ ms", ""),
    (r"\d[\d.]* ms", "N ms"),
    (r"its process ended.*", "its process ended"),  # older kernels do not tell how
    (r'File ".*/examples/', 'File "examples/'),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r" +", " "),
)
"""What differs from run to run, and what it is taken for."""


def same(text: str) -> list[str]:
    """The lines of an output, without what differs from run to run."""
    for pattern, told in NOT_THE_SAME:
        text = re.sub(pattern, told, text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def steps() -> list[tuple[str, str]]:
    """(command, what it prints) of the page, in order."""
    found = []
    for kind, block in BLOCK.findall(PAGE):
        if kind == "console":
            for part in block.removeprefix("$ ").split("\n$ "):
                command, _, printed = part.partition("\n")
                found.append((command, printed))
    return found


@pytest.fixture
def shell() -> Iterator[dict[str, str]]:
    """The environment of a reader's shell, on a Ray of its own."""
    folder = Path(tempfile.mkdtemp(prefix="tf", dir="/tmp"))  # Ray's socket paths are limited
    environment = user_environment(folder) | {"PORT": str(free_port())}
    programs = Path(sys.executable).parent
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    try:
        with head_node(environment, folder) as node:
            yield node.environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def in_background(command: str, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        ["bash", "-c", command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(600)
def test_every_line_that_a_command_prints_is_the_pages(shell: dict[str, str]) -> None:
    typed = steps()
    assert [command.split()[0] for command, _ in typed].count("tagtrail") >= 4
    with contextlib.ExitStack() as stack:
        for command, printed in typed:
            here = command.replace("127.0.0.1:8000", f"127.0.0.1:{shell['PORT']}")
            if here == "tagtrail start":
                here += f" --http-port {shell['PORT']}"
            if here.endswith(" &"):
                stack.enter_context(in_background(f"exec {here.removesuffix(' &')}", shell))
                continue
            # A request under way goes on meanwhile, and the last lines are on their way.
            is_asked_again = here.startswith("tagtrail trace")
            deadline = time.monotonic() + SHOWN_S
            while same(shown := type_in(here, shell).stdout) != same(printed):
                if not is_asked_again or time.monotonic() > deadline:
                    assert same(shown) == same(printed), f"{command}\n{shown}"
                time.sleep(0.5)


def test_the_page_shows_the_examples_own_code() -> None:
    code = [block for kind, block in BLOCK.findall(PAGE) if kind == "python" and "class" in block]
    assert len(code) == 1
    assert code[0] in EXAMPLE
