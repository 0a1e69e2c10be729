"""`tagtrail logs --follow --json` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tests.integration.processes import ROOT, hear_ctrl_c, script_env


@contextlib.contextmanager
def follow(
    address: str, *options: str, told: list[str] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Gives the records that it shows, as they come. Ctrl-C ends it; it must exit 0 then.

    Args:
        address: of the Ray cluster.
        options: of `tagtrail logs`.
        told: takes the lines of its stderr, as they come.
    """
    command = ["-m", "serve", "--address", address, "logs", "--follow", "--json", *options]
    shown: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if told is None else subprocess.PIPE,
        text=True,
        env=script_env(None),
        cwd=ROOT,
        preexec_fn=hear_ctrl_c,
    ) as follower:
        stdout = follower.stdout
        assert stdout is not None
        readers = [threading.Thread(target=lambda: shown.extend(map(json.loads, stdout)))]
        if told is not None:
            readers.append(threading.Thread(target=lambda: told.extend(follower.stderr or ())))
        for reader in readers:
            reader.start()
        try:
            yield shown
            follower.send_signal(signal.SIGINT)
            code = follower.wait(60)
        finally:
            follower.kill()
            for reader in readers:
                reader.join(20)
    assert code == 0
