"""Judges the first part of the way: the answer's headers, and the record in the segments. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from observability.doctor.checks import Check, Checks, always, judge
from observability.doctor.findings import Finding, Outcome, Station
from observability.doctor.reply import REFUSED, TOO_LATE, Reply

NO_ENDPOINT_PATH = "/-/tagtrail-canary%00"
"""Asked when no path is given.

An ingress answers a path with a NUL itself, whatever the routes are: no endpoint, not even one that
takes every path, gets to see it.
"""

ID, BACKEND, REPLICA = "x-request-id", "x-serve-backend", "x-serve-replica"


@dataclass(frozen=True, slots=True)
class Canary:
    """The request that is followed.

    Attributes:
        request_id: its id.
        path: the endpoint's path; "": none, the ingress answers.
    """

    request_id: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class AnswerLook:
    """What came for the canary.

    Attributes:
        canary: the request.
        reply: to it.
        silent: replicas that do not answer their health check, a clause each.
    """

    canary: Canary
    reply: Reply
    silent: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """It has the canary's id."""
        return self.reply.headers.get(ID) == self.canary.request_id

    @property
    def id_seen(self) -> str:
        """The id that it has instead, for people."""
        seen = self.reply.headers.get(ID)
        return f"X-Request-ID: {seen}" if seen else "without X-Request-ID"

    @property
    def server(self) -> str:
        """Who it says it is, for people."""
        name = self.reply.headers.get("server")
        return f" (it calls itself {name})" if name else ""

    @property
    def backend(self) -> str:
        """Tag of the backend that gave it; "": none says so."""
        return self.reply.headers.get(BACKEND, "")

    @property
    def replica(self) -> str:
        """Tag of the replica that gave it; "": none says so."""
        return self.reply.headers.get(REPLICA, "")

    @property
    def location(self) -> str:
        """Where it sends to."""
        return self.reply.headers.get("location", "?")

    @property
    def waits_for(self) -> str:
        """The replicas that hang, for people."""
        return "; ".join(self.silent)


def judge_answer(look: AnswerLook) -> Finding:
    """Whether the canary was answered, by whom it should be, with our headers."""
    return judge(Station.ANSWER, ANSWER_CHECKS, look)


_NO_ANSWER = "{reply.url}: {reply.error}"
_STRANGER = "See who listens: 'ss -ltnp'; see where the ingress should: 'tagtrail status'."
_IS_IT_WELL = "See whether the ingress is well: 'tagtrail status'."
_SAYS = "GET {canary.path} answers {reply.seen}"
_SEE_ROUTES = "See routes, methods and replicas: 'tagtrail status'."

ANSWER_CHECKS: Checks[AnswerLook] = (
    Check(
        lambda look: look.reply.error == REFUSED,
        _NO_ANSWER,
        "The ingress does not listen.",
        _IS_IT_WELL,
    ),
    Check(  # a path of an endpoint, which a replica answers
        lambda look: look.reply.error == TOO_LATE and look.canary.path and look.silent,
        _NO_ANSWER,
        "The endpoint may wait for one that hangs: {waits_for}.",
        _IS_IT_WELL,
    ),
    Check(
        lambda look: look.reply.error == TOO_LATE and look.canary.path,
        _NO_ANSWER,
        "The endpoint takes that long; else HAProxy hangs, or the machine is overloaded.",
        _IS_IT_WELL,
    ),
    Check(
        lambda look: look.reply.error == TOO_LATE,
        _NO_ANSWER,
        "HAProxy hangs, or the machine is overloaded.",
        _IS_IT_WELL,
    ),
    Check(
        lambda look: look.reply.error,
        _NO_ANSWER,
        "The connection ended without an answer: no HTTP server, perhaps.",
        _IS_IT_WELL,
    ),
    Check(
        lambda look: not look.is_ours,
        "{reply.url} answers {reply.status}, {id_seen}",
        "Another program answers on this port{server}, or something before the ingress changes the "
        "headers.",
        _STRANGER,
    ),
    Check(
        lambda look: not look.canary.path and (look.reply.status != 404 or look.backend),
        "{reply.url} answers {reply.seen}",
        "An ingress says 404 to this path. Another program answers on this port.",
        _STRANGER,
    ),
    Check(
        lambda look: not look.canary.path,
        "404 of the ingress, as it should be, with X-Request-ID {canary.request_id}",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: look.replica and look.backend,
        "{reply.status} of {replica}, with X-Request-ID {canary.request_id}",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: look.reply.status == 307,
        "GET {canary.path} is redirected to {location}",
        "The endpoint's path is spelt otherwise.",
        "tagtrail doctor --path '{location}'",
    ),
    Check(
        lambda look: look.reply.status == 404,
        _SAYS,
        "No endpoint has this path.",
        _SEE_ROUTES,
    ),
    Check(
        lambda look: look.reply.status == 405,
        _SAYS,
        "The endpoint does not take GET, and the doctor sends nothing else.",
        _SEE_ROUTES,
    ),
    Check(
        always,
        _SAYS,
        "No replica answered: none runs, or all are busy.",
        _SEE_ROUTES,
    ),
)
"""What an answer may show, in this order."""


@dataclass(frozen=True, slots=True)
class SegmentLook:
    """What was seen of the segments.

    Attributes:
        path: the canary's, of an endpoint; "": none.
        folder: of this node's.
        count: records with the canary's id.
        waited_s: how long they were looked for, seconds.
        exists: the folder is there.
        is_here: the record is expected on this machine.
        has_access_log: whether requests leave records, by the configuration.
        dropped: records that could not be written since the canary was sent.
        free_bytes: on the folder's disk; None: not known.
        problems: what could not be read of other nodes.
    """

    path: str
    folder: str
    count: int
    waited_s: float = 0.0
    exists: bool = True
    is_here: bool = True
    has_access_log: bool = True
    dropped: float = 0.0
    free_bytes: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def records(self) -> str:
        """How many, for people."""
        return "1 record" if self.count == 1 else f"{self.count} records"

    @property
    def where(self) -> str:
        """Where they are, for people."""
        return self.folder if self.is_here else "another node's segments"

    @property
    def free(self) -> str:
        """What is free on the disk, for people."""
        return "" if self.free_bytes is None else f", {self.free_bytes // 10**6} MB are free"

    @property
    def problem(self) -> str:
        """Why other nodes' segments can't be seen, for people."""
        return " ".join(self.problems) or "Ray's log API did not show it."


def judge_segment(look: SegmentLook) -> Finding:
    """Whether the canary left a record, and why not."""
    return judge(Station.SEGMENT, SEGMENT_CHECKS, look)


_NO_RECORD = "no record within {waited_s:.0f} s in {folder}"
_OFF = "access_log is off in LoggingConfig: requests leave no record."

SEGMENT_CHECKS: Checks[SegmentLook] = (
    Check(
        lambda look: look.count,
        "{records} in {where}, after {waited_s:.1f} s",
        outcome=Outcome.OK,
    ),
    Check(
        lambda look: not look.has_access_log and look.path,
        _NO_RECORD,
        _OFF,
        "serve.update_backend_config(TAG, {{'logging_config': {{'access_log': True}}}})",
    ),
    Check(
        lambda look: not look.has_access_log,
        _NO_RECORD,
        _OFF,
        "serve.start(..., logging_config={{'access_log': True}}); --path asks an endpoint.",
    ),
    Check(
        lambda look: look.dropped or look.free_bytes == 0,
        _NO_RECORD,
        "Records can't be written: {dropped:.0f} were dropped meanwhile{free}. The disk is full, "
        "or the folder may not be written.",
        "df -h {folder}",
    ),
    Check(
        lambda look: not look.is_here,
        _NO_RECORD,
        "The record is on another node. {problem}",
        "Call 'tagtrail doctor' on that node, or run Ray's dashboard: ray start --head "
        "--include-dashboard=true",
    ),
    Check(
        lambda look: not look.exists,
        _NO_RECORD,
        "The folder is not there: the instance's Ray session is another one, or on another "
        "machine.",
        "See which sessions there are: 'ls -l /tmp/ray' (or the --temp-dir of Ray).",
    ),
    Check(
        always,
        _NO_RECORD,
        "The one that answered writes elsewhere (another instance on this port?), or its process "
        "hangs.",
        "See what was recorded last: 'tagtrail logs -n 20'.",
    ),
)
"""What the segments may show, in this order."""
