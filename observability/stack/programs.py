"""The programs of the pipeline: what each is called, where it is on this machine, how to get it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from observability.settings import program_variables


@dataclass(frozen=True, slots=True)
class Program:
    """One program.

    Attributes:
        name: what we call it; `TAGTRAIL_<NAME>_BIN` names its file.
        executables: names it has on `PATH`, the likeliest first.
        how_to_get: a sentence for who lacks it.
    """

    name: str
    executables: tuple[str, ...]
    how_to_get: str

    @property
    def variable(self) -> str:
        """The environment variable that names its file."""
        return f"TAGTRAIL_{self.name.upper()}_BIN"


PROMETHEUS = Program(
    "prometheus", ("prometheus",), "On Debian and Ubuntu: apt-get install prometheus."
)
PROMTOOL = Program("promtool", ("promtool",), "It comes with Prometheus.")


def find_program(program: Program, variables: Mapping[str, str] | None = None) -> Path:
    """The program's file: from its variable, else from `PATH`.

    Args:
        program: which one.
        variables: `TAGTRAIL_<NAME>_BIN`; default: the environment's.

    Raises:
        FileNotFoundError: there is none; says where it was looked for and how to get it.
    """
    named = (program_variables() if variables is None else variables).get(program.variable)
    if named:
        found = shutil.which(named)
        if found is None:
            raise FileNotFoundError(
                f"{program.variable}={named} is no program that can be run. Expected the path of "
                f"{program.name}."
            )
        return Path(found)
    for executable in program.executables:
        found = shutil.which(executable)
        if found is not None:
            return Path(found)
    raise FileNotFoundError(
        f"{program.name} is not on this machine: {program.variable} is not set, and PATH has no "
        f"{' or '.join(program.executables)}. {program.how_to_get}"
    )
