"""What the serving core uses of Ray that Ray does not promise to keep. Nothing else of ours does.

Ray is imported when something is asked for: commands without a cluster do without.
"""

from __future__ import annotations

from typing import Any

from observability.instrument.foreign import take

_WORKER = "ray._private.worker"
_PRINT = "print_to_stdstream"
_KV = "ray.experimental.internal_kv"
_KEEP = "keep the goal of an instance"


def print_to_stderr_only() -> None:
    """Have Ray print on stderr what it would on a driver's stdout.

    Raises:
        ForeignNameError: Ray prints by another name.
    """
    printed = take("ray", _WORKER, _PRINT, "keep a command's output clean")
    worker = take("ray", "ray._private", "worker", "keep a command's output clean")

    def print_to_stderr(data: dict[str, Any], ignore_prefix: bool) -> None:
        printed({**data, "is_err": True}, ignore_prefix)

    setattr(worker, _PRINT, print_to_stderr)


def find_clusters() -> set[str]:
    """Addresses of the Ray clusters that run on this machine."""
    find = take("ray", "ray._private.services", "find_gcs_addresses", "find Ray on this machine")
    return set(find())


def kv_put(key: bytes, value: bytes, namespace: bytes) -> None:
    """Store a value in Ray's internal KV, in place of the one before."""
    put = take("ray", _KV, "_internal_kv_put", _KEEP)
    put(key, value, overwrite=True, namespace=namespace)


def kv_get(key: bytes, namespace: bytes) -> bytes | None:
    """A value of Ray's internal KV, or None."""
    found: bytes | None = take("ray", _KV, "_internal_kv_get", _KEEP)(key, namespace=namespace)
    return found


def kv_delete(key: bytes, namespace: bytes) -> None:
    """Remove a value from Ray's internal KV."""
    take("ray", _KV, "_internal_kv_del", _KEEP)(key, namespace=namespace)


def kv_list(prefix: bytes, namespace: bytes) -> list[bytes]:
    """The keys of Ray's internal KV that begin with a prefix."""
    return list(take("ray", _KV, "_internal_kv_list", _KEEP)(prefix, namespace=namespace))
