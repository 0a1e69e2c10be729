"""The status of an instance, asked again and again: by one process, which stays connected.

`tagtrail status` would connect anew each time, for 4 s of a core.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.integration.processes import ROOT

END_S = 60

TELL = """
import json, sys
from serve.command.cluster import connect_instance
from serve.status import describe
for line in sys.stdin:
    client = connect_instance(sys.argv[1]) if line == "connect\\n" else client
    print(json.dumps(describe(client.status(), client.controller_name)), flush=True)
"""


@contextlib.contextmanager
def status_of(
    address: str, environment: Mapping[str, str], prefix: Sequence[str] = ()
) -> Iterator[Callable[[], Any]]:
    """What `tagtrail status --json` would tell, now.

    Args:
        address: of the cluster.
        environment: of the process.
        prefix: of its command: what makes it run on a host.
    """
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", TELL, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(environment),
        cwd=ROOT,
    )
    words = iter(["connect"])

    def ask() -> Any:
        assert process.stdin is not None and process.stdout is not None
        print(next(words, "again"), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    try:
        yield ask
        process.communicate(timeout=END_S)
    finally:
        process.kill()
        process.wait()
