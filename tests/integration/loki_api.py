"""Loki's HTTP API as far as Tagtrail uses it, with the shapes of its documentation.

Stands for a Loki, which is not to be had here. Of LogQL it knows a selector with `=`, `!=` and
`=~`, and `|=` filters after it; anything else is refused as Loki refuses what it can't parse.
https://grafana.com/docs/loki/latest/reference/loki-http-api/
"""

from __future__ import annotations

import ast
import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.integration.http_server import serve_http
from tests.integration.pipelines import make_keepers

PASSWORD = "se:cret@"
TENANT = "fake"
"""Loki's own name for the only tenant, when it has no others."""

MAX_ENTRIES = 5000
MAX_LENGTH_NS = 721 * 3600 * 10**9

Labels = tuple[tuple[str, str], ...]
Answer = tuple[int, str]

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_SELECTOR = re.compile(rf"\{{((?:\s*\w+\s*(?:=~|!=|=)\s*{_STRING}\s*,?)+)\}}")
_MATCHER = re.compile(rf"(\w+)\s*(=~|!=|=)\s*({_STRING})")
_FILTER = re.compile(rf"\s*\|=\s*({_STRING})")


@dataclass
class LokiApi:
    """What it holds.

    Attributes:
        url: its address.
        entries: by tenant and labels, then by (time, line): metadata.
        failures: statuses to answer the next requests with.
        queries: of all requests for records.
        pushes: how many were taken.
        needs_password: refuse who has none.
        is_ready: whether it says so.
    """

    url: str = ""
    entries: dict[str, dict[Labels, dict[tuple[int, str], dict[str, str]]]] = field(
        default_factory=dict
    )
    failures: list[int] = field(default_factory=list)
    queries: list[dict[str, str]] = field(default_factory=list)
    pushes: int = 0
    needs_password: bool = False
    is_ready: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, time_ns: int, line: str) -> None:
        """Have an entry of Tagtrail's, as an agent brings it."""
        stream = {"stream": {"job": "serve"}, "values": [[str(time_ns), line]]}
        with self.lock:
            self.push(TENANT, json.dumps({"streams": [stream]}).encode())

    def answer(self, command: str, url: str, headers: Message, body: bytes) -> Answer:
        """What Loki answers to a request below its path."""
        parts = urlsplit(url)
        if parts.path == "/ready":
            text = "Ingester not ready: waiting for 15s after being ready\n"
            return (200, "ready\n") if self.is_ready else (503, text)
        if self.failures:
            return self.failures.pop(0), "too busy\n"
        if self.needs_password and not has_password(headers.get("Authorization")):
            return 401, "no credentials\n"
        tenant = headers.get("X-Scope-OrgID", TENANT)
        match command, parts.path:
            case "POST", "/loki/api/v1/push":
                assert headers["Content-Type"] == "application/json"
                return self.push(tenant, body)
            case "GET", "/loki/api/v1/query_range":
                flags = headers.get("X-Loki-Response-Encoding-Flags", "")
                asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
                return self.query_range(tenant, asked, is_categorized="categorize-labels" in flags)
        return 404, "404 page not found\n"

    def push(self, tenant: str, body: bytes) -> Answer:
        """Keep the entries of one push; one that is there already is no second one."""
        try:
            streams = json.loads(body)["streams"]
            for stream in streams:
                labels = tuple(sorted(stream["stream"].items()))
                if not labels:
                    return 400, "error at least one label pair is required per stream\n"
                kept = self.entries.setdefault(tenant, {}).setdefault(labels, {})
                for time_ns, line, *more in stream["values"]:
                    metadata = more[0] if more else {}
                    if not all(isinstance(v, str) for v in [*metadata.values(), time_ns]):
                        return 400, "Value is not a string\n"
                    kept.setdefault((int(time_ns), line), metadata)
        except (KeyError, ValueError) as error:
            return 400, f"loghttp.PushRequest: {error}\n"
        self.pushes += 1
        return 204, ""

    def query_range(self, tenant: str, asked: dict[str, str], *, is_categorized: bool) -> Answer:
        """The entries of a query; plain text for what is refused."""
        self.queries.append(asked)
        start, end = int(asked["start"]), int(asked["end"])
        limit = int(asked.get("limit", "100"))
        if limit > MAX_ENTRIES:
            reason = f"max entries limit per query exceeded, limit > ({limit} > {MAX_ENTRIES})"
            return 400, f"{reason}\n"
        if end - start > MAX_LENGTH_NS:
            return 400, "the query time range exceeds the limit (limit: 30d1h)\n"
        if end <= start:
            return 400, "end timestamp must not be before or equal to start time\n"
        parsed = parse(asked["query"])
        if parsed is None:
            return 400, "parse error at line 1, col 1: syntax error: unexpected IDENTIFIER\n"
        found = [
            (time_ns, line, labels, metadata)
            for labels, kept in self.entries.get(tenant, {}).items()
            if all(is_selected(dict(labels), *matcher) for matcher in parsed[0])
            for (time_ns, line), metadata in kept.items()
            if start <= time_ns < end and all(text in line for text in parsed[1])
        ]
        found.sort(
            key=lambda entry: entry[0], reverse=asked.get("direction", "backward") == "backward"
        )
        streams: dict[Labels, list[Any]] = {}
        for time_ns, line, labels, metadata in found[:limit]:
            value: list[Any] = [str(time_ns), line]
            if is_categorized:
                value.append({"structuredMetadata": metadata} if metadata else {})
            else:  # then metadata are labels, and each entry is likely a stream of its own
                labels = tuple(sorted({**metadata, **dict(labels)}.items()))
            streams.setdefault(labels, []).append(value)
        data: dict[str, Any] = {
            "resultType": "streams",
            "result": [{"stream": dict(k), "values": v} for k, v in streams.items()],
            "stats": {},
        }
        if is_categorized:
            data["encodingFlags"] = ["categorize-labels"]
        return 200, json.dumps({"status": "success", "data": data})


def parse(query: str) -> tuple[list[tuple[str, str, str]], list[str]] | None:
    """(label, operator, value) of each matcher, and the texts of the filters."""
    selector = _SELECTOR.match(query)
    if selector is None:
        return None
    matchers = [(m[1], m[2], unquote(m[3])) for m in _MATCHER.finditer(selector[1])]
    filters, position = [], selector.end()
    while position < len(query):
        found = _FILTER.match(query, position)
        if found is None:
            return None
        filters.append(unquote(found[1]))
        position = found.end()
    return matchers, filters


def unquote(quoted: str) -> str:
    """What a quoted string means; Python's rules and Go's are alike here."""
    text: str = ast.literal_eval(quoted)
    return text


def has_password(authorization: str | None) -> bool:
    expected = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    return authorization == f"Basic {expected}"


def is_selected(labels: dict[str, str], name: str, operator: str, value: str) -> bool:
    own = labels.get(name, "")
    if operator == "=~":
        return re.fullmatch(value, own) is not None
    return (own == value) is (operator == "=")


@contextmanager
def run_loki_api(port: int = 0, prefix: str = "") -> Iterator[LokiApi]:
    """Serve it on this machine, below a path."""
    api = LokiApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            with api.lock:
                path = self.path[len(prefix) :] if self.path.startswith(prefix) else "/"
                status, content = api.answer(self.command, path, self.headers, body)
            data = content.encode()
            self.send_response(status)
            is_json = content.startswith("{")
            self.send_header("Content-Type", "application/json" if is_json else "text/plain")
            if status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

    with serve_http(Handler, port) as address:
        api.url = f"http://{address}{prefix}"
        yield api


@contextmanager
def run_loki(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty Loki: `stand-in`, or a `real` one if it was handed in."""
    if kind == "stand-in":
        with run_loki_api() as api:
            yield api.url
        return
    ((keeper, url),) = make_keepers(("loki",), folder, folder)
    with keeper.running():
        yield url
