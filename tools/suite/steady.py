"""Runs tests many times in random order on a busy machine, and says what failed how often.

Started by `tools/steady`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.suite.records import Run
from tools.suite.run import FOLDER, run_pytest, say

BURN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(10_000))"
"""It ends with who started it, also when that was killed."""


@dataclass(frozen=True)
class Round:
    """One round: the number that ordered the tests, pytest's status, and what became of each."""

    seed: int
    status: int
    run: Run


def main(args: Sequence[str]) -> int:
    """The command; its result is the exit status."""
    asked, of_pytest = parser().parse_known_args(args)
    folder = FOLDER / "steady"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rounds = []
    with busy(asked.burners):
        for number in range(1, asked.rounds + 1):
            rounds.append(play(number, asked, of_pytest, folder))
    for line in table(rounds):
        say(line)
    say(f"What was said is in {folder}/. A round again: --seed SEED with 1 for N.")
    return 1 if any(each.status != 0 for each in rounds) else 0


def parser() -> argparse.ArgumentParser:
    """What it takes."""
    made = argparse.ArgumentParser(
        prog="tools/steady",
        description="Run tests N times in random order while processes of the same niceness burn "
        "all cores; print what failed how often. Exit status 1 if anything failed.",
        epilog="Anything else is handed to pytest: tools/steady 10 tests/unit -x -n2",
    )
    made.add_argument("rounds", type=positive, metavar="N", help="how many times")
    made.add_argument("tests", nargs="*", default=["tests"], help="which; default: all")
    made.add_argument(
        "--seed", type=int, help="of the first round, the next has the next number; default: any"
    )
    made.add_argument(
        *("--burners",), type=int, default=os.cpu_count() or 2, metavar="COUNT",
        help="processes that burn a core each; default: one for each core",
    )  # fmt: skip
    return made


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; expected 1 or more")
    return int(text)


def play(number: int, asked: argparse.Namespace, of_pytest: Sequence[str], folder: Path) -> Round:
    """One round."""
    seed = random.randrange(10**6) if asked.seed is None else asked.seed + number - 1
    say(f"==> round {number} of {asked.rounds}, seed {seed}")
    begun = time.monotonic()
    order = ("-p", "tools.suite.shuffle", f"--shuffle={seed}")
    status, run = run_pytest(f"round-{number}", *order, *asked.tests, *of_pytest, folder=folder)
    took_s = time.monotonic() - begun
    say(f"<== round {number}, seed {seed}: {len(run.failed)} failed in {took_s:.0f} s")
    return Round(seed, status, run)


@contextlib.contextmanager
def busy(burners: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many cores burn, each by one of these processes."""
    command = [sys.executable, "-c", BURN, str(os.getpid())]
    processes = [subprocess.Popen(command) for _ in range(burners)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def table(rounds: Sequence[Round]) -> list[str]:
    """What failed how often, the most frequent first, and with which numbers."""
    seeds: dict[str, list[int]] = {}
    for each in rounds:
        troubles = [f"(the run: {text})" for text in each.run.trouble]
        if each.status != 0 and not each.run.failed and not troubles:
            troubles = [f"(the run: pytest ended with status {each.status})"]
        for name in (*each.run.failed, *troubles):
            seeds.setdefault(name, []).append(each.seed)
    if not seeds:
        return [f"Nothing failed in {len(rounds)} rounds."]
    often = sorted(seeds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        f"{'failed':>9}  test (seeds)",
        *(
            f"{f'{len(found)} of {len(rounds)}':>9}  {name} ({', '.join(map(str, found))})"
            for name, found in often
        ),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
