"""The vocabulary of the trail: every field of a record, written once.

Code, agent configurations, dashboards, the docs' table and the contract tests derive from it or are
checked against it. A record is one JSON object in one line of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Role(str, Enum):
    """What a log store does with a field."""

    LABEL = "label"
    """Few values, known beforehand: it selects streams."""

    METADATA = "metadata"
    """Many values: searched for, but never a label."""

    BODY = "body"
    """Part of the line only."""


class Kind(str, Enum):
    """What a record tells."""

    LOG = "log"
    """Something was said: by user code, a library, Python, or Tagtrail itself."""

    ACCESS = "access"
    """A request ended."""


class Component(str, Enum):
    """Which part of the system wrote a record. `serve` is a replica: the seed's word for it."""

    SERVE = "serve"
    INGRESS = "ingress"
    CONTROLLER = "controller"


BOTH = (Kind.LOG, Kind.ACCESS)
LOG = (Kind.LOG,)
ACCESS = (Kind.ACCESS,)


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        name: its key in the JSON object.
        type: JSON type: string, integer, number, array, object.
        kinds: the kinds of record that have it. A field without a value is left out of a record.
        role: what a log store does with it.
        meaning: for people, with the unit.
    """

    name: str
    type: str
    kinds: tuple[Kind, ...]
    role: Role
    meaning: str


FIELDS: tuple[Field, ...] = (
    Field(
        "time",
        "string",
        BOTH,
        Role.BODY,
        "RFC 3339 in UTC with nine decimals; strictly increasing within a process",
    ),
    Field("kind", "string", BOTH, Role.METADATA, "`log` or `access`"),
    Field("level", "string", BOTH, Role.LABEL, "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    Field("component", "string", BOTH, Role.LABEL, "`serve` (a replica), `ingress`, `controller`"),
    Field("backend", "string", BOTH, Role.LABEL, "tag of the backend"),
    Field("replica", "string", BOTH, Role.METADATA, "tag of the replica"),
    Field("node", "string", BOTH, Role.METADATA, "address of the node"),
    Field("pid", "integer", BOTH, Role.METADATA, "process id"),
    Field("endpoint", "string", BOTH, Role.METADATA, "name of the endpoint asked"),
    Field("route", "string", BOTH, Role.METADATA, "the endpoint's pattern, never the raw path"),
    Field("request_id", "string", BOTH, Role.METADATA, "id of the request"),
    Field(
        "batch_ids",
        "array",
        BOTH,
        Role.BODY,
        "ids of all requests of the batch that said it, and then there is no request_id, or that "
        "called it",
    ),
    Field(
        "batch_mates",
        "array",
        ACCESS,
        Role.BODY,
        "ids of the requests that were in a batch with this one, 20 at most",
    ),
    Field(
        "batch_span_id",
        "string",
        ACCESS,
        Role.BODY,
        "span_id that stands for its batch: parent_id of what the batch called",
    ),
    Field("trace_id", "string", BOTH, Role.METADATA, "W3C trace id, 32 hexadecimal digits"),
    Field(
        "span_id",
        "string",
        BOTH,
        Role.METADATA,
        "this step of the request, 16 hexadecimal digits; there when another step called it, or it "
        "calls one",
    ),
    Field("parent_id", "string", ACCESS, Role.METADATA, "span_id of the step that made this call"),
    Field("logger", "string", LOG, Role.METADATA, "name of the logger; `stdout` for print()"),
    Field("message", "string", LOG, Role.BODY, "what was said"),
    Field("file", "string", LOG, Role.BODY, "file that said it, without its folder"),
    Field("line", "integer", LOG, Role.BODY, "line in that file"),
    Field(
        "thread",
        "string",
        LOG,
        Role.BODY,
        "name of the thread, if it is one that user code started",
    ),
    Field("exception", "string", BOTH, Role.BODY, "traceback"),
    Field("extra", "object", LOG, Role.BODY, "what the user gave as `extra={...}`"),
    Field("cut_chars", "integer", LOG, Role.BODY, "characters left out of a too long record"),
    Field(
        "way", "string", ACCESS, Role.METADATA, "`http`, `websocket`, `call`, `remote` or `shadow`"
    ),
    Field(
        "method",
        "string",
        ACCESS,
        Role.METADATA,
        "HTTP method; of a handle's call, the method called",
    ),
    Field("path", "string", ACCESS, Role.BODY, "raw path, without the query"),
    Field(
        "status",
        "integer",
        ACCESS,
        Role.METADATA,
        "HTTP status; for calls what HTTP would say; 499: the caller went away",
    ),
    Field(
        "queue_ms",
        "number",
        ACCESS,
        Role.BODY,
        "all waits before the handler ran, milliseconds: the sum of the three that follow",
    ),
    Field(
        "sender_ms",
        "number",
        ACCESS,
        Role.BODY,
        "from the ingress's or the caller's sending it to its arrival, queueing there included",
    ),
    Field(
        "replica_ms",
        "number",
        ACCESS,
        Role.BODY,
        "wait for a place at the replica (max_concurrent_queries) and for a handler thread",
    ),
    Field("batch_ms", "number", ACCESS, Role.BODY, "wait for its batch to fill and to begin"),
    Field(
        "processing_ms",
        "number",
        BOTH,
        Role.BODY,
        "the handler's time until the answer's end, milliseconds, without `send_ms`; in a log "
        "record, until its replica died",
    ),
    Field(
        "send_ms",
        "number",
        ACCESS,
        Role.BODY,
        "wait for the client to take the answer, milliseconds",
    ),
    Field(
        "bytes_in",
        "integer",
        ACCESS,
        Role.BODY,
        "bytes of the request's body; of an ingress, the head included",
    ),
    Field(
        "bytes_out",
        "integer",
        ACCESS,
        Role.BODY,
        "bytes of the answer's body; of an ingress, the head included",
    ),
    Field(
        "client", "string", ACCESS, Role.BODY, "address of the client, if LoggingConfig asks for it"
    ),
    Field("retries", "integer", BOTH, Role.BODY, "attempts that failed before this one"),
    Field(
        "died_by",
        "string",
        LOG,
        Role.BODY,
        "how the replica's process ended: `exit code 3`, `SIGKILL`; `unknown`: the kernel does "
        "not tell; with a request_id, a request that it was at",
    ),
    Field(
        "dropped", "integer", LOG, Role.BODY, "records that could not be written before this one"
    ),
    Field("dropped_since", "string", LOG, Role.BODY, "time of the first of those"),
    Field(
        "close_code",
        "integer",
        ACCESS,
        Role.BODY,
        "how a WebSocket ended (RFC 6455): 1000 and 1001 well, 1006 its client went away without a "
        "word, 1011 the handler raised",
    ),
    Field(
        "error",
        "string",
        ACCESS,
        Role.BODY,
        "why it is no success: a short reason, or the exception with its place in the user's code",
    ),
)

NAMES = frozenset(field.name for field in FIELDS)


def fields_of(kind: Kind) -> tuple[Field, ...]:
    """The fields that records of a kind may have, in the order they are written."""
    return tuple(field for field in FIELDS if kind in field.kinds)


UNDER_WAY = "under_way"
"""`kind` of what a replica tells of a step that has not ended: an access record without a status,
and with a `stage`. It is in no segment."""

ENDED_WORDS = "This replica's process ended"
"""Begin the message of the record of a replica's end: it is found by them."""

DROPPED_WORDS = "records could not be written and are lost"
"""In the message of each record that tells of others which could not be written."""

SEGMENT_FOLDER = "serve"
"""Folder of the segments, in the `logs` folder of the Ray session."""

SEGMENT_PATTERN = r"(?P<name>.+)\.(?P<number>[0-9]{6,})\.log"
"""File names of segments: `replica_<tag>.000001.log`; the highest number is written to."""
