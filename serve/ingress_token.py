"""The token by which a replica knows that a request comes from an ingress of its instance.

It is worked out of the instance's secret, but does not tell it: who reads the token off the network
between two nodes can send requests, not calls, which are unpickled.
"""

from __future__ import annotations

import hashlib
import hmac

TOKEN_HEADER = "X-Serve-Token"


def make_ingress_token(secret: bytes) -> str:
    """The token of the instance with this secret: 64 hexadecimal digits."""
    return hmac.new(secret, b"ingress", hashlib.sha256).hexdigest()
