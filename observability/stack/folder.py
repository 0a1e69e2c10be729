"""The folder of a stack: what runs, data, logs, and configuration where it differs from `deploy/`.

state.json   what was started
lock         held while somebody starts or stops
config/      rendered copies
data/<name>  what each program keeps
logs/<name>.log
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from observability.stack.machine import grafana_home
from observability.stack.rendering import Changes, render_files
from observability.stack.services import Place, Service, StackError
from observability.stack.state import State, decode, encode


class StackFolder:
    """The folder. It is the user's alone: there are process ids in it that `down` ends.

    Args:
        path: where it is; made when it is needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold it. StackError: another command does, or it can't be made."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = open(self.path / "lock", "w")  # noqa: SIM115 - closed below
        except OSError as error:
            raise StackError(f"{self.path} can't be used: {error}. --folder PATH.") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StackError(
                    f"Another 'tagtrail stack' is at work in {self.path}. Wait until it is done."
                ) from None
            yield

    def load(self) -> State:
        """What was started. StackError: the file can't be understood."""
        file = self.path / "state.json"
        try:
            return decode(file.read_text())
        except FileNotFoundError:
            return State()
        except (OSError, ValueError) as error:
            raise StackError(
                f"{file} can't be read ({error}). See that nothing of it runs, and remove it."
            ) from None

    def save(self, state: State) -> None:
        """Keep it, or forget it when nothing is started."""
        file = self.path / "state.json"
        if not state.started:
            file.unlink(missing_ok=True)
            return
        fresh = file.with_suffix(".new")
        fresh.write_text(encode(state))
        fresh.replace(file)

    def log(self, service: Service) -> Path:
        """File for what a program says; its folder is made."""
        folder = self.path / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"{service.name}.log"

    def data(self, service: Service) -> Path:
        """Folder for what a program keeps; made."""
        folder = self.path / "data" / service.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def config(self, service: Service, deploy: Path, changes: Changes) -> Path:
        """What a program is to read: as it lies in `deploy`, or a copy in which all is changed."""
        source = deploy / service.folder
        wanted = source / service.config
        if not wanted.exists():
            raise StackError(f"{wanted} is missing: it comes with Tagtrail. Install it again.")
        names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
        files = {str(name): (source / name).read_text() for name in names}
        target = self.path / "config" / service.name
        shutil.rmtree(target, ignore_errors=True)
        rendered = render_files(files, changes)
        if rendered is None:
            return wanted
        for name, text in rendered.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return target / service.config

    def place(
        self,
        service: Service,
        executable: Path,
        deploy: Path,
        ports: Mapping[str, int],
        changes: Changes,
    ) -> Place:
        """Where a program works in this folder; what it reads and keeps is there then."""
        config = self.config(service, deploy, changes)
        options = config.read_text().splitlines() if config.suffix == ".flags" else ()
        home = grafana_home(executable)
        return Place(executable, config, self.data(service), ports, home, tuple(options))
