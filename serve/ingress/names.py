"""How tags, which hold any character, become HAProxy's names, which do not. Pure.

A name is a readable part and 12 digits of the tag's SHA-256: two tags never share one.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")


def section_name(backend_tag: str) -> str:
    """Name of a backend's section."""
    return _name("b", backend_tag)


def server_name(replica_tag: str) -> str:
    """Name of a replica's server line."""
    return _name("r", replica_tag)


def check_text(text: str, what: str) -> str:
    """Give back `text` when it fits a line of a file and a header's value.

    Raises:
        ValueError: it holds a control character or half a surrogate pair.
    """
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cs"):
            raise ValueError(
                f"{what} {text!r} holds {char!r}. Control characters are not allowed; rename it."
            )
    return text


def _name(prefix: str, tag: str) -> str:
    digest = hashlib.sha256(tag.encode(errors="surrogatepass")).hexdigest()[:12]
    readable = _UNFIT.sub("-", tag)[:40].strip("-") or "x"
    return f"{prefix}_{readable}_{digest}"
