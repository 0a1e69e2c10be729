"""Hosts on one machine: network namespaces with an address each, joined by a bridge.

Needs root and the program `ip`. A link can be taken down: the host runs on and reaches nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import is_alive

PREFIXES = [f"10.77.{number}.0/24" for number in range(100)]
_OURS = re.compile(r"tt(\d+)n\d+([hv]\d+)?")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes:
        address: its own.
        namespace: its network namespace.
        link: the bridge's end of its cable.
    """

    address: str
    namespace: str
    link: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What makes a command run there."""
        return ("ip", "netns", "exec", self.namespace)

    def pids(self) -> set[int]:
        """Ids of the processes that run there."""
        return set(map(int, _ip("netns", "pids", self.namespace).split()))

    def cut_off(self) -> None:
        """Pull its cable: nothing comes in or goes out, and nobody is told."""
        _ip("link", "set", self.link, "down")

    def bring_back(self) -> None:
        """Plug its cable in again."""
        _ip("link", "set", self.link, "up")


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts; this machine reaches them too. Skips, with the reason, where it can't be."""
    if shutil.which("ip") is None:
        pytest.skip("hosts need the program 'ip' (package iproute2)")
    if os.geteuid() != 0:
        pytest.skip("hosts are network namespaces, and need root")
    _remove_left()
    name = f"tt{os.getpid()}n{next(_numbers)}"
    with contextlib.ExitStack() as undo:
        try:
            made = _make(name, count, undo)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr}")
        yield made


def _make(name: str, count: int, undo: contextlib.ExitStack) -> list[Host]:
    with _one_at_a_time():  # who looks meanwhile would find the same network free
        network = _free_network()
        addresses = [str(address) for address in itertools.islice(network.hosts(), count + 1)]
        _ip("link", "add", name, "type", "bridge")
        undo.callback(_ip, "link", "delete", name)
        _ip("address", "add", f"{addresses[-1]}/{network.prefixlen}", "dev", name)
        _ip("link", "set", name, "up")
    made = []
    for number, address in enumerate(addresses[:-1]):
        host = Host(address, f"{name}h{number}", f"{name}v{number}")
        _ip("netns", "add", host.namespace)
        undo.callback(_ip, "netns", "delete", host.namespace)
        inside = ("-n", host.namespace)
        _ip("link", "add", host.link, "type", "veth", "peer", "eth0", "netns", host.namespace)
        # With the namespace it goes by and by, as long as a connection lingers there.
        undo.callback(_remove_link, host.link)
        _ip("link", "set", host.link, "master", name, "up")
        _ip(*inside, "address", "add", f"{address}/{network.prefixlen}", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        # Ray takes the address from which it would go to the world for its node's.
        _ip(*inside, "route", "add", "default", "via", addresses[-1])
        made.append(host)
    return made


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of all test runs on this machine."""
    with (Path(tempfile.gettempdir()) / "tagtrail-tests-hosts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_network() -> ipaddress.IPv4Network:
    """One that no interface and no route of this machine has."""
    routes: list[dict[str, Any]] = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    told = [route["dst"] for route in routes if route["dst"] != "default"]
    taken = [ipaddress.IPv4Network(dst, strict=False) for dst in told]
    networks = map(ipaddress.IPv4Network, PREFIXES)
    return next(n for n in networks if not any(n.overlaps(other) for other in taken))


def _remove_left() -> None:
    """What a test run that was killed could not remove."""
    namespaces = [line.split()[0] for line in _ip("netns", "list").splitlines()]
    links = [entry["ifname"] for entry in json.loads(_ip("-json", "link", "show"))]
    for kind, names in (("netns", namespaces), ("link", links)):
        for name in names:
            match = _OURS.fullmatch(name)
            if match and not is_alive(int(match[1])):
                with contextlib.suppress(subprocess.CalledProcessError):
                    _ip(kind, "delete", name)


def _remove_link(link: str) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):  # it went with its namespace
        _ip("link", "delete", link)


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout
