"""HAProxy's log lines: how they are asked for, and which of them become access records. Pure.

HAProxy writes a line at the end of each request that a replica has not surely answered whole; the
replica's own record tells of the others. Fields stand between tabs: HAProxy refuses control
characters in a request line, and names that users chose hold none (`names.check_text`).
"""

from __future__ import annotations

from dataclasses import dataclass

from observability.instrument.access import CALLER_GONE, AccessRecord
from serve.ingress.maps import MISS_SECTION, NO_TRAFFIC_SECTION, RELAY_SECTION

MAX_LINE_BYTES = 4000
"""A write of less than 4096 bytes (PIPE_BUF) to a pipe is never mixed with another process's."""

WHOLE_BYTES = 8192
"""An answer of a replica with at most so many bytes arrives with its head, or not at all."""

_MAX_PATH = 1024
_UNKNOWN = "<BADREQ>"

_FIELDS = (
    "%[var(txn.id)]",
    "%HM",
    "%ST",
    "%ts",
    "%Tw",
    "%Ta",
    "%U",
    "%B",
    "%ci",
    "%rc",
    "%b",
    "%[be_name,map_str({tags})]",
    "%[var(txn.key),map_str({endpoints})]",
    "%[var(txn.key),map_str({routes})]",
    "%[var(txn.untold)]",
    "%[var(txn.trace)]",
    "%s",
    "%[var(txn.died)]",
    "%HP",
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line.

    Attributes:
        request_id: "" for a request whose head could not be read.
        method: HTTP method.
        status: of the answer; 0 for none.
        state: HAProxy's two letters of how the request ended (its manual, "Session state at
            disconnection").
        wait_ms: time in the queue; -1 when it never left it.
        total_ms: from the request's first byte to the answer's last, milliseconds.
        bytes_in: from the client, heads included.
        bytes_out: to the client, heads included.
        client: address of the client.
        retries: attempts that failed.
        section: HAProxy's section that answered.
        backend: tag of the backend; "" when none was chosen.
        endpoint: name of the endpoint; "" when none matched.
        route: its route.
        is_untold: the replica's server answered without asking the replica.
        traceparent: the client's; "" without one that may be well-formed.
        server: HAProxy's name of the replica that had it last; "" for none.
        died: of a request that its replica's sidecar answered: how many replicas died of it, and
            the tag of that one.
        path: of the request, without the query.
    """

    request_id: str
    method: str
    status: int
    state: str
    wait_ms: int
    total_ms: int
    bytes_in: int
    bytes_out: int
    client: str
    retries: int
    section: str
    backend: str
    endpoint: str
    route: str
    is_untold: bool
    traceparent: str
    server: str
    died: str
    path: str


def log_format(files: dict[str, str]) -> str:
    """HAProxy's `log-format` for the lines, in quotes. `files`: path of each map file."""
    fields = "\t".join(_FIELDS)
    for name in ("tags", "endpoints", "routes"):
        fields = fields.replace(f"{{{name}}}", files[name])
    return f"'{fields}'"


def parse_line(data: bytes) -> LogLine | None:
    """A line, without its newline; None for what is none (HAProxy may say other things)."""
    fields = data.decode("utf-8", "replace").split("\t", len(_FIELDS) - 1)
    if len(fields) != len(_FIELDS):
        return None
    try:
        status, wait_ms, total_ms, bytes_in, bytes_out = (int(fields[i]) for i in (2, 4, 5, 6, 7))
        retries = int(fields[9].lstrip("+"))
    except ValueError:
        return None
    request_id, method, _, state, *_ = fields
    client, _, section, backend, endpoint, route, untold, trace, *rest = fields[8:]
    server, died, path = rest
    return LogLine(
        _known(request_id),
        method,
        max(0, status),
        state,
        wait_ms,
        total_ms,
        bytes_in,
        bytes_out,
        client,
        retries,
        section,
        _known(backend),
        _known(endpoint),
        _known(route),
        bool(_known(untold)),
        _known(trace),
        "" if server == "<NOSRV>" else _known(server),
        _known(died),
        path[:_MAX_PATH],
    )


def to_record(
    line: LogLine, request_id: str, *, has_client: bool, replica: str = ""
) -> AccessRecord | None:
    """The access record of a line; None when a replica tells of that request.

    Args:
        line: the line.
        request_id: for a request that has none.
        replica: tag of the replica that had it last.
        has_client: whether the client's address is told.
    """
    if line.section == RELAY_SECTION:  # the worker it was passed on to tells of it
        return None
    error = explain(line)
    if error is None:
        return None
    queue_ms = line.wait_ms if line.wait_ms >= 0 else line.total_ms
    retries = line.retries
    if line.died:  # HAProxy counts connections that were refused, too
        runs, _, replica = line.died.partition(" ")
        retries = max(0, int(runs) - 1) if runs.isdigit() else 0
    return AccessRecord(
        way="http",
        method="" if line.method == _UNKNOWN else line.method,
        path="" if line.path == _UNKNOWN else line.path,
        status=CALLER_GONE if error == "client_gone" else line.status,
        endpoint=line.endpoint,
        route=line.route,
        request_id=line.request_id or request_id,
        queue_ms=float(max(0, queue_ms)),
        processing_ms=float(max(0, line.total_ms - max(0, queue_ms))),
        bytes_in=line.bytes_in,
        bytes_out=line.bytes_out,
        client=line.client if has_client else "",
        retries=retries,
        error=error,
        backend=line.backend,
        replica=replica,
    )


_OWN_ERRORS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}

_STATES = {
    # The client went away before a replica had the request.
    "CQ": "client_gone",
    "CC": "client_gone",
    "cQ": "client_gone",
    "cC": "client_gone",
    # It did not send a whole request.
    "cR": "request_timeout",
    "PR": "bad_request",
    # No replica took it.
    "sQ": "queue_timeout",
    "SC": "no_replica",
    "sC": "no_replica",
    "SQ": "no_replica",
    "DC": "no_replica",
    "DQ": "no_replica",
    # The replica failed: before its answer, or within.
    "SH": "replica_died",
    "SD": "replica_died",
    "SL": "replica_died",
    "DH": "replica_died",
    "DD": "replica_died",
    "sH": "replica_timeout",
    "sD": "replica_timeout",
    "PH": "bad_answer",
}
"""First letter: who ended it (C client, S server, P HAProxy, D a server that was taken away; small:
a time limit). Second: what it was doing (R request, Q queue, C connect, H answer's head, D data).
"""


def is_cut(line: LogLine) -> bool:
    """Whether an answer broke off in its middle, of which a replica that lives tells itself."""
    return line.state in _CUT


def explain(line: LogLine) -> str | None:
    """Why a request is no success, "" if it is one; None when a replica tells of it.

    What is not in the table is either a whole answer of a replica (`--`), or the client left, or
    sent what is no HTTP, while the replica was at work (`CH`, `CD`, `PD`): the replica sees that
    too.
    """
    if line.died:  # and its sidecar answered
        return "replica_died"
    if line.state.startswith("L"):  # HAProxy answered by itself
        if line.status == 503:
            return "no_traffic" if line.section == NO_TRAFFIC_SECTION else "queue_full"
        return _OWN_ERRORS.get(line.status, "")
    if line.state.startswith(("R", "I")):
        return "ingress_overloaded" if line.state.startswith("R") else "ingress_error"
    if line.state == "CR":  # it left before HAProxy turned to a replica; with half a head: nobody
        return "client_gone" if line.request_id else None
    if line.state == "PH" and line.status == 400:  # a bad chunk, after the replica had the head
        return None
    if line.state == "--" and (line.is_untold or line.section == MISS_SECTION):
        return _OWN_ERRORS.get(line.status, "")
    return _STATES.get(line.state)


_CUT = frozenset({"SD", "SL", "DD", "sD"})


def _known(text: str) -> str:
    return "" if text == "-" else text
