"""Where the programs of the pipeline are on this machine; what they are is in records.py.

Each is looked for in this order: the file that `TAGTRAIL_<NAME>_BIN` names, `PATH`, and the cache
that `make tools` fills: `<cache>/<name>/<version>/<executable>`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from observability.settings import program_cache, program_variables
from observability.stack.records import Program


def find_program(
    program: Program, variables: Mapping[str, str] | None = None, cache: Path | None = None
) -> Path:
    """The program's file: from its variable, else from `PATH`, else the newest of the cache.

    Args:
        program: which one.
        variables: `TAGTRAIL_<NAME>_BIN`; default: the environment's.
        cache: folder of programs that were built; default: the user's.

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
    folder = (program_cache() if cache is None else cache) / program.name
    versions = sorted(folder.glob(f"*/{program.executables[0]}"), key=_version)
    if versions:
        return versions[-1]
    raise FileNotFoundError(
        f"{program.name} is not on this machine: {program.variable} is not set, PATH has no "
        f"{' or '.join(program.executables)}, and {folder} is empty. {program.how_to_get}"
    )


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", path.parent.name)]
