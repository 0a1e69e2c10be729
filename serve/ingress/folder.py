"""The folder of one HAProxy: its configuration, its maps, its log. Each file is replaced whole."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from serve.errors import RayServeException
from serve.ingress.records import CONFIG_NAME, Document

LOG_NAME = "haproxy.log"

_CANDIDATE = "candidate.cfg"
_OLD_FILE = re.compile(r".+-[0-9a-f]{12}\.(map|json)")
_TAIL_CHARS = 2000


class RunFolder:
    """The folder; made when something is written, for a cleaner may take it away at any time.

    Args:
        path: where it is.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._config = self._path / CONFIG_NAME

    @property
    def candidate(self) -> Path:
        """The configuration that `write_candidate` wrote."""
        return self._path / _CANDIDATE

    @property
    def log(self) -> Path:
        """What HAProxy says on stderr."""
        return self._path / LOG_NAME

    def write_candidate(self, document: Document) -> None:
        """Write a document beside the one that is in use: no file of that one changes."""
        self._make()
        for name, text in document.files:
            _write(self._path / (_CANDIDATE if name == CONFIG_NAME else name), text.encode())

    def take_candidate(self) -> bytes:
        """Make the candidate the configuration; the one before."""
        before = self._config.read_bytes() if self._config.exists() else b""
        os.replace(self.candidate, self._config)
        return before

    def restore(self, before: bytes) -> None:
        """Have the configuration as it was."""
        _write(self._config, before)

    def write(self, document: Document) -> None:
        """Write a document for the next start."""
        self.write_candidate(document)
        self.take_candidate()
        self.remove_old(document)

    def remove_old(self, document: Document) -> None:
        """Remove the maps of documents before this one."""
        used = {name for name, _ in document.files}
        with contextlib.suppress(OSError):  # the next change does it
            for path in self._path.iterdir():
                if path.name not in used and _OLD_FILE.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def read_log_tail(self) -> str:
        """The end of what HAProxy said on stderr, for messages."""
        try:
            return self.log.read_text(errors="replace")[-_TAIL_CHARS:]
        except OSError as error:
            return f"(Its log can't be read: {error})"

    def _make(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = self._path.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            raise RayServeException(
                f"{self._path} is not a folder of this user's own. Remove it, or choose another."
            )
        self._path.chmod(0o700)


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    part = path.with_name(path.name + ".part")
    part.touch(0o600)  # only its owner reads it: the configuration holds the token
    part.write_bytes(content)
    os.replace(part, path)
