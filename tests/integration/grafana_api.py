"""Grafana's HTTP API as far as Tagtrail uses it, with the shapes of its documentation.

Stands for a Grafana, which is not to be had here:
https://grafana.com/docs/grafana/latest/developers/http_api/ (data_source, folder, dashboard).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.integration.http_server import serve_http

TOKEN = "glsa_test"

Answer = tuple[int, dict[str, Any]]


@dataclass
class GrafanaApi:
    """What it holds.

    Attributes:
        url: its address.
        sources: data sources by uid.
        folders: by uid.
        dashboards: by uid, as `{"dashboard": ..., "meta": ...}`.
        writes: method and path of every request that changed something.
        read_only: uids of data sources that were provisioned from files.
        unwell: what the check of a data source says that fails, by uid.
    """

    url: str = ""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    read_only: set[str] = field(default_factory=set)
    unwell: dict[str, str] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        """What Grafana answers; AssertionError for what its documentation does not have."""
        parts = path.removeprefix("/api/").split("/")
        if parts[-1] == "health":
            return self._check(parts[-2])
        if method == "GET":
            return self._find(*parts)
        self.writes.append(f"{method} {path}")
        match method, parts:
            case "POST", ["datasources"]:
                if any(s["name"] == body["name"] for s in self.sources.values()):
                    return 409, {"message": "data source with the same name already exists"}
                return self._keep_source(body["uid"], body, "Datasource added")
            case "PUT", ["datasources", "uid", uid]:
                if uid in self.read_only:
                    return 403, {"message": "Cannot update read-only data source"}
                return self._keep_source(uid, body, "Datasource updated")
            case ("POST", ["folders"]) | ("PUT", ["folders", _]):
                uid = body.get("uid", parts[-1])
                self.folders[uid] = {"id": 1, "version": 1, "uid": uid, "title": body["title"]}
                return 200, self.folders[uid]
            case "POST", ["dashboards", "db"]:
                return self._keep_dashboard(body)
        raise AssertionError(f"{method} {path}")

    def _find(self, kind: str, *rest: str) -> Answer:
        kept = {"datasources": self.sources, "folders": self.folders, "dashboards": self.dashboards}
        found = kept[kind].get(rest[-1])
        return (404, {"message": f"{kind}: not found"}) if found is None else (200, found)

    def _check(self, uid: str) -> Answer:
        if uid not in self.sources:
            return 404, {"message": "Data source not found"}
        if uid in self.unwell:
            return 400, {"status": "ERROR", "message": self.unwell[uid]}
        return 200, {"status": "OK", "message": "Successfully queried the API."}

    def _keep_source(self, uid: str, body: dict[str, Any], message: str) -> Answer:
        kept = {"id": len(self.sources) + 1, "orgId": 1, "readOnly": False, "version": 1, **body}
        self.sources[uid] = kept
        return 200, {"datasource": kept, "id": kept["id"], "message": message, "name": body["name"]}

    def _keep_dashboard(self, body: dict[str, Any]) -> Answer:
        dashboard, folder = body["dashboard"], body["folderUid"]
        if folder not in self.folders:
            return 400, {"message": "folder not found"}
        before = self.dashboards.get(dashboard["uid"])
        if before is not None and not body.get("overwrite"):
            return 412, {"message": "version mismatch", "status": "version-mismatch"}
        version = 1 if before is None else before["dashboard"]["version"] + 1
        kept = {**dashboard, "id": len(self.dashboards) + 1, "version": version}
        self.dashboards[dashboard["uid"]] = {"dashboard": kept, "meta": {"folderUid": folder}}
        url = f"/d/{dashboard['uid']}/x"
        return 200, {"uid": dashboard["uid"], "url": url, "status": "success", "version": version}


@contextmanager
def run_grafana_api(prefix: str = "") -> Iterator[GrafanaApi]:
    """Serve it on a free port of this machine, below a path."""
    api = GrafanaApi()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            status, content = 401, {"message": "Invalid API key"}
            path = self.path.removeprefix(prefix)
            if path == "/api/health":
                status, content = 200, {"commit": "0", "database": "ok", "version": "12.1.0"}
            elif self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, content = api.answer(self.command, path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET

    with serve_http(Handler) as address:
        api.url = f"http://{address}{prefix}"
        yield api
