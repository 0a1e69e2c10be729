"""The README's dozen lines, run as the script that they are, and its one `trace`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.integration.command import tagtrail
from tests.integration.processes import ROOT, hear_ctrl_c, script_env

pytestmark = pytest.mark.slow


def read_script() -> str:
    """The first block of Python in the README."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    return found[1]


def test_the_dozen_lines_stay_up_and_one_trace_tells_of_a_request(
    ray_address: str, http_port: int, tmp_path: Path
) -> None:
    code = read_script()
    assert code.count("serve.start()") == 1
    line = 1 + next(n for n, text in enumerate(code.splitlines()) if "somebody came" in text)
    own = f"serve.start(http_options={{'port': {http_port}}})"  # 8000 may be somebody's
    script = tmp_path / "app.py"
    told_ready = "print('serving', flush=True); signal.pause()"
    script.write_text(code.replace("serve.start()", own).replace("signal.pause()", told_ready))
    env = script_env(None) | {"RAY_ADDRESS": ray_address}
    url = f"http://127.0.0.1:{http_port}/greet?name=world"

    with subprocess.Popen(
        [sys.executable, str(script)],
        env=env,
        cwd=tmp_path,
        preexec_fn=hear_ctrl_c,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            assert "serving\n" in iter(running.stdout.readline, ""), "the script has ended"
            answer = httpx.get(url, timeout=60)
            assert answer.text == "Hello, world!"
            assert answer.headers["x-serve-backend"] == "greeter"
            request_id = answer.headers["x-request-id"]
            told = tagtrail("--address", ray_address, "trace", request_id).stdout
            assert f"Request {request_id}" in told
            assert "GET /greet  200" in told
            assert f"app.py:{line} -- somebody came" in told
            running.send_signal(signal.SIGINT)
            assert running.wait(60) == 0
        finally:
            running.kill()
