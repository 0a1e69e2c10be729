"""What this machine has for the stack: programs, and ports that nobody listens on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from pathlib import Path

from observability.settings import program_variables
from observability.stack.programs import find_program
from observability.stack.services import HOST, SERVICES, Service, StackError


def find_programs() -> dict[str, Path]:
    """Where those are that are there. StackError: a variable names one that can't be run."""
    found = {}
    variables = program_variables()
    for service in SERVICES:
        try:
            found[service.name] = find_program(service.program, variables)
        except FileNotFoundError as error:
            if variables.get(service.program.variable):  # asked for, so not passed over
                raise StackError(str(error)) from None
    return found


def grafana_home(executable: Path) -> str:
    """Folder of Grafana's own files: where it was unpacked, or where its package puts them."""
    for folder in (executable.resolve().parent.parent, Path("/usr/share/grafana")):
        if (folder / "conf" / "defaults.ini").is_file():
            return str(folder)
    return ""


def check_ports(service: Service, ports: Mapping[str, int]) -> None:
    """StackError when somebody else listens where a service should."""
    for name in service.ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, ports[name]))
            except OSError as error:
                taken = error.errno == errno.EADDRINUSE
                why = "is taken by another program" if taken else f"can't be used ({error})"
                raise StackError(
                    f"Port {ports[name]}, where {service.name} should listen, {why}. Give it "
                    f"another one: --port {name}=PORT. Nothing was started."
                ) from None
