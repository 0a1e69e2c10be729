"""Where the segments are looked for when nobody says it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from observability.settings import last_session_folder, ray_folder, stack_folder

ENVIRONMENTS = [
    ({}, "/tmp/ray"),
    ({"RAY_TMPDIR": "/data/x"}, "/data/x/ray"),
    ({"TMPDIR": "/data/y"}, "/data/y/ray"),
    ({"RAY_TMPDIR": "/data/x", "TMPDIR": "/data/y"}, "/data/x/ray"),
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TMPDIR counts on Linux only")
@pytest.mark.parametrize(("environ", "folder"), ENVIRONMENTS, ids=str)
def test_the_last_sessions_segments_are_found_by_rays_own_variables(
    environ: dict[str, str], folder: str
) -> None:
    assert ray_folder(environ) == Path(folder)
    expected = Path(folder, "session_latest", "logs", "serve")
    assert last_session_folder(environ) == expected


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TMPDIR counts on Linux only")
def test_ray_itself_looks_at_the_same_variables() -> None:
    code = (
        "import json, os, sys\n"
        "from ray._common.utils import get_default_ray_temp_dir\n"
        "for environ in json.loads(sys.argv[1]):\n"
        "    for name in ('RAY_TMPDIR', 'TMPDIR'):\n"
        "        os.environ.pop(name, None)\n"
        "    os.environ.update(environ)\n"
        "    print(get_default_ray_temp_dir())\n"
    )
    environs = str([environ for environ, _ in ENVIRONMENTS]).replace("'", '"')
    done = subprocess.run(
        [sys.executable, "-c", code, environs], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [folder for _, folder in ENVIRONMENTS]


def test_without_an_argument_this_processs_environment_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/data/z")
    assert os.environ["RAY_TMPDIR"] == "/data/z"
    assert last_session_folder().parts[:4] == ("/", "data", "z", "ray")


def test_the_stack_has_its_folder_where_the_user_keeps_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert stack_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/tagtrail/stack")
    monkeypatch.setenv("HOME", "/home/me")
    assert stack_folder({}) == Path("/home/me/.local/state/tagtrail/stack")
