"""Judges the first part of the way: the answer's headers, and the record in the segments. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from observability.doctor.findings import Finding, Station, bad, good
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


def judge_answer(canary: Canary, reply: Reply, silent: Sequence[str] = ()) -> Finding:
    """Whether the canary was answered, by whom it should be, with our headers.

    Args:
        canary: the request.
        reply: what came.
        silent: replicas that do not answer their health check, a clause each.
    """
    station = Station.ANSWER
    if reply.error:
        return _judge_silence(canary, reply, silent)
    seen_id = reply.headers.get(ID, "")
    if seen_id != canary.request_id:
        server = reply.headers.get("server", "")
        who = f" (it calls itself {server})" if server else ""
        return bad(
            station,
            f"{reply.url} answers {reply.status}, "
            + (f"X-Request-ID: {seen_id}" if seen_id else "without X-Request-ID"),
            f"Another program answers on this port{who}, or something before the ingress changes "
            "the headers.",
            "See who listens: 'ss -ltnp'; see where the ingress should: 'tagtrail status'.",
        )
    if not canary.path:
        if reply.status != 404 or BACKEND in reply.headers:
            return bad(
                station,
                f"{reply.url} answers {reply.seen}",
                "An ingress says 404 to this path. Another program answers on this port.",
                "See who listens: 'ss -ltnp'; see where the ingress should: 'tagtrail status'.",
            )
        return good(station, f"404 of the ingress, as it should be, with X-Request-ID {seen_id}")
    return _judge_endpoint(canary, reply)


def _judge_silence(canary: Canary, reply: Reply, silent: Sequence[str]) -> Finding:
    causes = {
        REFUSED: "The ingress does not listen.",
        TOO_LATE: "HAProxy hangs, or the machine is overloaded.",
    }
    if canary.path:  # which a replica answers
        causes[TOO_LATE] = (
            f"The endpoint may wait for one that hangs: {'; '.join(silent)}."
            if silent
            else "The endpoint takes that long; else HAProxy hangs, or the machine is overloaded."
        )
    return bad(
        Station.ANSWER,
        f"{reply.url}: {reply.error}",
        causes.get(reply.error, "The connection ended without an answer: no HTTP server, perhaps."),
        "See whether the ingress is well: 'tagtrail status'.",
    )


def _judge_endpoint(canary: Canary, reply: Reply) -> Finding:
    station, seen = Station.ANSWER, f"GET {canary.path} answers {reply.seen}"
    replica = reply.headers.get(REPLICA)
    if replica and reply.headers.get(BACKEND):
        return good(station, f"{reply.status} of {replica}, with X-Request-ID {canary.request_id}")
    if reply.status == 307:
        target = reply.headers.get("location", "?")
        return bad(
            station,
            f"GET {canary.path} is redirected to {target}",
            "The endpoint's path is spelt otherwise.",
            f"tagtrail doctor --path '{target}'",
        )
    causes = {
        404: "No endpoint has this path.",
        405: "The endpoint does not take GET, and the doctor sends nothing else.",
    }
    return bad(
        station,
        seen,
        causes.get(reply.status, "No replica answered: none runs, or all are busy."),
        "See routes, methods and replicas: 'tagtrail status'.",
    )


@dataclass(frozen=True, slots=True)
class SegmentLook:
    """What was seen of the segments.

    Attributes:
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

    folder: str
    count: int
    waited_s: float = 0.0
    exists: bool = True
    is_here: bool = True
    has_access_log: bool = True
    dropped: float = 0.0
    free_bytes: int | None = None
    problems: tuple[str, ...] = ()


def judge_segment(canary: Canary, look: SegmentLook) -> Finding:
    """Whether the canary left a record, and why not."""
    if look.count:
        where = look.folder if look.is_here else "another node's segments"
        records = "1 record" if look.count == 1 else f"{look.count} records"
        return good(Station.SEGMENT, f"{records} in {where}, after {look.waited_s:.1f} s")
    cause, step = _why_no_record(canary, look)
    detail = f"no record within {look.waited_s:.0f} s in {look.folder}"
    return bad(Station.SEGMENT, detail, cause, step)


def _why_no_record(canary: Canary, look: SegmentLook) -> tuple[str, str]:
    if not look.has_access_log:
        return (
            "access_log is off in LoggingConfig: requests leave no record.",
            "serve.update_backend_config(TAG, {'logging_config': {'access_log': True}})"
            if canary.path
            else "serve.start(..., logging_config={'access_log': True}); --path asks an endpoint.",
        )
    if look.dropped or look.free_bytes == 0:
        free = "" if look.free_bytes is None else f", {look.free_bytes // 10**6} MB are free"
        return (
            f"Records can't be written: {look.dropped:.0f} were dropped meanwhile{free}. The disk "
            "is full, or the folder may not be written.",
            f"df -h {look.folder}",
        )
    if not look.is_here:
        problem = " ".join(look.problems) or "Ray's log API did not show it."
        return (
            f"The record is on another node. {problem}",
            "Call 'tagtrail doctor' on that node, or run Ray's dashboard: ray start --head "
            "--include-dashboard=true",
        )
    if not look.exists:
        return (
            "The folder is not there: the instance's Ray session is another one, or on another "
            "machine.",
            "See which sessions there are: 'ls -l /tmp/ray' (or the --temp-dir of Ray).",
        )
    return (
        "The one that answered writes elsewhere (another instance on this port?), or its process "
        "hangs.",
        "See what was recorded last: 'tagtrail logs -n 20'.",
    )
