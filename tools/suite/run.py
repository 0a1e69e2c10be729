"""Runs the tests; one that failed is run once more at the end, alone. What `make test` starts.

    python -m tools.suite.run [what pytest takes]

If it passes then, it lost a race: the run passes, and its last lines say `UNSTEADY: <test>`. Such
a test is the next thing to mend. Does it fail again, the run fails. No second chance is given when
a file could not be collected, pytest or one of its workers broke down, the run stopped early, or
so many failed that the build is broken.

All that was said is kept in `test-results/`, written anew by each run: `first.txt` with the
slowest tests at its end, `again.txt`, `unsteady.txt` and what each of them said in both runs,
`longest.txt` with what each file took.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.suite.records import Run, longest_first, read_run, unsteady, why_not_again

FOLDER = Path("test-results")
SLOWEST = ("--durations=60", "--durations-min=0.5")


def main(args: Sequence[str]) -> int:
    """The command; its result is the exit status."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.*"):  # not `tools/steady`'s folder
        path.unlink()
    status, first = run_pytest("first", *SLOWEST, *args)
    write(FOLDER / "longest.txt", longest_first(first))
    if status == 0:
        return 0
    if reason := why_not_again(status, first):
        say(f"No second chance for what failed: {reason}.")
        return status
    return second_chance(first)


def second_chance(first: Run) -> int:
    """Run what failed once more, and say what is to be thought of it."""
    say(f"{len(first.failed)} failed; once more, alone: {', '.join(first.failed)}")
    status, second = run_pytest("again", "-rA", *first.failed)
    lucky = unsteady(first, second)
    write(FOLDER / "unsteady.txt", [f"UNSTEADY: {test}" for test in lucky])
    write(FOLDER / "what-they-said.txt", what_they_said(lucky, first))
    for test in first.failed:
        if test not in lucky:
            say(f"FAILED twice: {test}")
    if lucky:
        say(f"What they said is in {FOLDER}/what-they-said.txt and {FOLDER}/again.txt.")
    for test in lucky:
        say(f"UNSTEADY: {test}")
    return 0 if status == 0 and len(lucky) == len(first.failed) else 1


def what_they_said(tests: Sequence[str], first: Run) -> list[str]:
    """The first run's words on each test; the second's are the whole of `again.txt`."""
    return [f"===== {test}, when it failed =====\n{first.failed[test]}" for test in tests]


def run_pytest(name: str, *args: str, folder: Path = FOLDER) -> tuple[int, Run]:
    """One run of pytest, its output shown and kept: its status, and what became of each test."""
    outcomes = folder / f"{name}.jsonl"
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tools.suite.outcomes", f"--outcomes={outcomes}"),
        *args,
    ]
    status = show_and_keep(command, folder / f"{name}.txt")
    lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    return status, read_run(lines)


def show_and_keep(command: Sequence[str], path: Path) -> int:
    """Run a command, its output on this one's and in a file; its exit status."""
    colours = {"PY_COLORS": "1"} if sys.stdout.isatty() else {}
    with path.open("wb") as kept:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**colours, **os.environ},
        )
        # Ctrl-C reaches pytest too, which then ends what it started; a polite end is made one.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        for said in output_of(process):
            kept.write(said)
            sys.stdout.buffer.write(said)
            sys.stdout.buffer.flush()
        return process.wait()


def output_of(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What it says until it ends, also where a process that it left behind holds its output."""
    assert process.stdout is not None
    while True:
        has_ended = process.poll() is not None
        if select.select([process.stdout], [], [], 0 if has_ended else 0.2)[0]:
            if not (said := os.read(process.stdout.fileno(), 65_536)):
                return
            yield said
        elif has_ended:
            return


def write(path: Path, lines: Sequence[str]) -> None:
    """A file of lines."""
    path.write_text("".join(f"{line}\n" for line in lines))


def say(line: str) -> None:
    """A line, now."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
