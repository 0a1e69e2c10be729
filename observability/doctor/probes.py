"""The questions that are asked over HTTP. Each has a limit, and none raises: see `Reply`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from observability.doctor.reply import REFUSED, TOO_LATE, Reply
from observability.doctor.stores import Store

LOOK_S = 5.0
"""Limit of a question to a program of the pipeline, seconds."""

CONNECT_S = 2.0

FOUND_LIMIT = 10
AROUND_S = 300
"""Clocks of two machines may differ by so much."""


class Probes:
    """Asks, without proxies or passwords of the environment: what is asked is near, by its address.

    Args:
        grafana_auth: `(user, password)`, a token, or None.
    """

    def __init__(self, grafana_auth: str | tuple[str, str] | None = None) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["User-Agent"] = "tagtrail-doctor"
        self._grafana_auth = grafana_auth

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        limit_s: float = LOOK_S,
    ) -> Reply:
        """GET, or POST when there is a form. Redirects are not followed."""
        try:
            answer = self._session.request(
                "GET" if form is None else "POST",
                url,
                params=params,
                data=form,
                headers=headers,
                auth=auth,
                timeout=(min(CONNECT_S, limit_s), limit_s),
                allow_redirects=False,
            )
        except requests.Timeout:
            return Reply(url, error=TOO_LATE)
        except requests.RequestException as error:
            return Reply(url, error=_explain(error))
        answer.encoding = answer.encoding or "utf-8"
        names = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(url, answer.status_code, answer.text, names)

    def ask_store(self, store: Store, url: str, request_id: str) -> Reply:
        """The records with this id that a store has from the last minutes."""
        now_s = time.time()
        if store is Store.VICTORIA_LOGS:
            text = f'_time:{AROUND_S}s request_id:="{request_id}"'
            form = {"query": text, "limit": str(FOUND_LIMIT)}
            return self.ask(f"{url}/select/logsql/query", form=form)
        params = {
            "query": f'{{job="serve"}} |= "{request_id}"',
            "start": str(round((now_s - AROUND_S) * 1e9)),
            "end": str(round((now_s + AROUND_S) * 1e9)),
            "limit": str(FOUND_LIMIT),
        }
        return self.ask(f"{url}/loki/api/v1/query_range", params=params)

    def ask_prometheus(self, url: str, query: str, at_s: float | None = None) -> Reply:
        """An instant query, at a moment (seconds since 1970) or now."""
        params = {"query": query} if at_s is None else {"query": query, "time": f"{at_s:.3f}"}
        return self.ask(f"{url}/api/v1/query", params=params)

    def ask_grafana(self, url: str, path: str) -> Reply:
        """One of Grafana's API, with the credentials if there are any."""
        given = self._grafana_auth
        if isinstance(given, str):
            return self.ask(f"{url}{path}", headers={"Authorization": f"Bearer {given}"})
        return self.ask(f"{url}{path}", auth=given)


def check_url(url: str) -> str:
    """An address without a slash at its end.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address. Expected http://HOST:PORT.")
    return url.rstrip("/")


def _explain(error: Any) -> str:
    text = str(error)
    if "refused" in text:
        return REFUSED
    for known in ("Name or service not known", "nodename nor servname", "Failed to resolve"):
        if known in text:
            return "no such host"
    if "No route to host" in text or "unreachable" in text:
        return "no way to this host"
    return f"no answer ({type(error).__name__})"
