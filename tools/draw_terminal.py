"""Draws what a command prints on a terminal, for the documentation.

python tools/draw_terminal.py docs/images/trace.svg tagtrail trace REQUEST_ID
"""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110


def run(command: list[str]) -> str:
    """What it prints where there is a terminal, colours included."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment
    ):
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        except OSError:
            pass  # Linux's way to tell that nobody writes any more
        finally:
            os.close(ours)
    return b"".join(chunks).decode().replace("\r\n", "\n")


def main() -> None:
    """Run the command and write the picture."""
    path, *command = sys.argv[1:]
    shown = Text.assemble((f"$ {shlex.join(command)}\n", "bold"), Text.from_ansi(run(command)))
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(shown)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        console.save_svg(path, title="")


if __name__ == "__main__":
    main()
