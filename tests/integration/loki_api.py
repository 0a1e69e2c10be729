"""Loki's HTTP API as far as the doctor uses it, with the shapes of its documentation.

Stands for a Loki, which is not to be had here:
https://grafana.com/docs/loki/latest/reference/loki-http-api/ (ready, query_range).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

QUERY = re.compile(r'\{job="serve"\} \|= "([^"]*)"')


@dataclass
class LokiApi:
    """What it holds.

    Attributes:
        url: its address.
        lines: the entries of its one stream: (nanoseconds since 1970, line).
        is_ready: whether it says so.
    """

    url: str = ""
    lines: list[tuple[int, str]] = field(default_factory=list)
    is_ready: bool = True

    def answer(self, path: str) -> tuple[int, str]:
        """What Loki answers; AssertionError for what its documentation does not have."""
        parts = urlsplit(path)
        if parts.path == "/ready":
            text = "Ingester not ready: waiting for 15s after being ready"
            return (200, "ready\n") if self.is_ready else (503, text)
        assert parts.path == "/loki/api/v1/query_range", path
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        query = QUERY.fullmatch(asked["query"])
        assert query is not None, asked
        values = [
            [str(time), line]
            for time, line in self.lines
            if int(asked["start"]) <= time < int(asked["end"]) and query[1] in line
        ]
        streams = [{"stream": {"job": "serve"}, "values": values}] if values else []
        data = {"resultType": "streams", "result": streams, "stats": {}}
        return 200, json.dumps({"status": "success", "data": data})


@contextmanager
def run_loki_api() -> Iterator[LokiApi]:
    """Serve it on a free port of this machine."""
    api = LokiApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = api.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
