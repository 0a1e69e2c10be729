"""The records of an ingress: what it is told about its node, and the document it makes of that."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_HOST = re.compile(r"[A-Za-z0-9_.:%*-]+")
_PATH = re.compile(r"/[A-Za-z0-9_./@:+,=~-]*")
_TOKEN = re.compile(r"[0-9a-f]*")
_SOCKET_PATH_BYTES = 90  # 108 in Linux, 104 in macOS; HAProxy adds ".<pid>.tmp" while it binds


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """What an ingress must know of its node and its options.

    Attributes:
        host: address to listen on.
        port: port to listen on, 1 to 65535.
        folder: absolute path of a folder of its own, for the configuration, its maps and the
            sockets.
        node_id: Ray's id of the node.
        request_timeout_s: how long either side may be silent during a request, seconds.
        keep_alive_timeout_s: how long a client's idle connection is kept, seconds.
        thread_count: HAProxy's threads.
        is_logged: requests that no replica tells of are written to HAProxy's stdout
            (`loglines.py`).
        prefers_local: a request goes to a replica of this node rather than to another node's.
        token: sent to the replicas with each request; "" for none.
    """

    host: str
    port: int
    folder: str
    node_id: str = ""
    request_timeout_s: float = 600.0
    keep_alive_timeout_s: float = 60.0
    thread_count: int = 1
    is_logged: bool = False
    prefers_local: bool = False
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ValueError(
                f"Host {self.host!r} is not an address. Expected one like '127.0.0.1'."
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"Port {self.port} is out of range. Expected 1 to 65535.")
        if not _PATH.fullmatch(self.folder):
            raise ValueError(
                f"Folder {self.folder!r} cannot be used. Expected an absolute path of letters, "
                "digits and ./_@:+,=~- only."
            )
        if len(self.master_socket.encode()) > _SOCKET_PATH_BYTES:
            raise ValueError(
                f"Folder {self.folder!r} is too long for a Unix socket in it. Expected at most "
                f"{_SOCKET_PATH_BYTES - len('/master.sock')} bytes; choose a shorter one."
            )
        if not _TOKEN.fullmatch(self.token):
            raise ValueError("The token must be hexadecimal digits.")
        if self.thread_count < 1 or self.request_timeout_s <= 0 or self.keep_alive_timeout_s <= 0:
            raise ValueError(f"Time limits and thread_count must be above 0, got {self!r}.")

    @property
    def preferred_node(self) -> str:
        """Ray's id of the node whose replicas go before others'; "" for none."""
        return self.node_id if self.prefers_local else ""

    @property
    def config_path(self) -> str:
        """Path of the configuration file."""
        return f"{self.folder}/{CONFIG_NAME}"

    @property
    def admin_socket(self) -> str:
        """Path of the runtime socket of the current worker."""
        return f"{self.folder}/admin.sock"

    @property
    def master_socket(self) -> str:
        """Path of the master's socket, where reloads are asked for."""
        return f"{self.folder}/master.sock"

    @property
    def relay_socket(self) -> str:
        """Path of the socket on which a worker takes what its predecessor still got."""
        return f"{self.folder}/relay.sock"


CONFIG_NAME = "haproxy.cfg"


@dataclass(frozen=True, slots=True)
class Document:
    """All files that one HAProxy process reads.

    Map files bear a hash of their content in their name.

    Attributes:
        files: (file name, text), the configuration first.
    """

    files: tuple[tuple[str, str], ...]

    @property
    def config(self) -> str:
        """Text of the configuration file."""
        return dict(self.files)[CONFIG_NAME]
