"""Loki: reading records back from it, and a handler that pushes them where no agent runs.

from observability.loki import PushHandler

logging.getLogger().addHandler(PushHandler("http://loki:3100"))
"""

from observability.loki.push import PushHandler

__all__ = ["PushHandler"]
