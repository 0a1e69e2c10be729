"""A running Grafana, through `grafana-client`; and what we want to be in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from grafana_client import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException, GrafanaServerError
from niquests.exceptions import RequestException

from observability.grafana.changes import Action, Change, Content, Item, Kind, compare

TIMEOUT_S = 10.0
FOLDER = Item(Kind.FOLDER, "tagtrail", {"uid": "tagtrail", "title": "Tagtrail"})
READABLE = ("http", "https")


class GrafanaError(Exception):
    """It can't be reached, or refuses; the message says what to do."""


def wanted_items(deploy: Path, urls: dict[str, str]) -> list[Item]:
    """What `deploy/grafana` holds, in the order in which it has to be made.

    Args:
        deploy: the folder `deploy`.
        urls: address of a data source's program by its type, where it is not the file's.
    """
    path = deploy / "grafana" / "provisioning" / "datasources" / "tagtrail.yaml"
    items = []
    for source in _without_escapes(yaml.safe_load(path.read_text())["datasources"]):
        source["url"] = urls.get(source["type"], source["url"])
        items.append(Item(Kind.DATA_SOURCE, source["uid"], source))
    items.append(FOLDER)
    for file in sorted((deploy / "grafana" / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        items.append(Item(Kind.DASHBOARD, dashboard["uid"], dashboard))
    return items


def _without_escapes(value: Any) -> Any:
    """In its files `$$` stands for `$`; its API takes what is written."""
    if isinstance(value, dict):
        return {key: _without_escapes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_escapes(item) for item in value]
    return value.replace("$$", "$") if isinstance(value, str) else value


class Grafana:
    """One Grafana.

    Args:
        url: its address, with a path if it has one.
        credential: a token, or (user, password); None: those in the address.

    Raises:
        GrafanaError: `url` is no address. Also every method, when Grafana can't be reached.
    """

    def __init__(self, url: str, credential: str | tuple[str, str] | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in READABLE or not parts.hostname:
            raise GrafanaError(f"{url!r} is no address. Expected http://HOST:3000.")
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        path = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._api = GrafanaApi.from_url(
            parts._replace(path=path).geturl(), credential=credential, timeout=TIMEOUT_S
        )

    def compare(self, items: list[Item]) -> Iterator[Change]:
        """What has to be done for each."""
        for item in items:
            yield compare(item, self._find(item))

    def push(self, items: list[Item]) -> Iterator[Change]:
        """Do it, and tell what was done. What is as it should be is left alone."""
        for item in items:
            change = compare(item, self._find(item))
            if change.action is not Action.NOTHING:
                self._put(item, change.action)
            yield change

    def _find(self, item: Item) -> Content | None:
        find = {
            Kind.DATA_SOURCE: self._api.datasource.get_datasource_by_uid,
            Kind.FOLDER: self._api.folder.get_folder,
            Kind.DASHBOARD: self._api.dashboard.get_dashboard,
        }[item.kind]
        try:
            found: dict[str, Any] = self._ask(find, item.uid)
        except GrafanaClientError as error:
            if error.status_code == 404:
                return None
            raise GrafanaError(self._explain(error)) from None
        return found["dashboard"] if item.kind is Kind.DASHBOARD else found

    def _put(self, item: Item, action: Action) -> None:
        try:
            if item.kind is Kind.DASHBOARD:
                body = {
                    "dashboard": item.content,
                    "folderUid": FOLDER.uid,
                    "overwrite": True,
                    "message": "tagtrail grafana push",
                }
                self._ask(self._api.dashboard.update_dashboard, body)
            elif item.kind is Kind.FOLDER:
                self._put_folder(item, action)
            elif action is Action.CREATE:
                self._ask(self._api.datasource.create_datasource, dict(item.content))
            else:
                update = self._api.datasource.update_datasource_by_uid
                self._ask(update, item.uid, dict(item.content))
        except GrafanaClientError as error:
            raise GrafanaError(f"{item.kind.value} {item.uid}: {self._explain(error)}") from None

    def _put_folder(self, item: Item, action: Action) -> None:
        title = item.content["title"]
        if action is Action.CREATE:
            self._ask(self._api.folder.create_folder, title, item.uid)
        else:
            self._ask(self._api.folder.update_folder, item.uid, title, overwrite=True)

    def _ask(self, call: Any, *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except GrafanaClientError:
            raise
        except GrafanaServerError as error:
            raise GrafanaError(
                f"Grafana at {self.url} failed: {error}. Its log says why."
            ) from None
        except (GrafanaException, RequestException, OSError) as error:
            raise GrafanaError(
                f"Grafana can't be reached at {self.url} ({type(error).__name__}). Does it run? "
                "--url is its address, with the path if it is served below one."
            ) from None

    def _explain(self, error: GrafanaClientError) -> str:
        message = error.message
        if error.status_code in (401, 403):
            return (
                f"Grafana at {self.url} refuses: {message}. Give the token of a service account "
                "with the role Admin (--token), or --user NAME:PASSWORD."
            )
        return (
            f"Grafana at {self.url} refuses: {message}. What was provisioned from files can only "
            "be changed there."
        )
