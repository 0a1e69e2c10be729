"""A backend that logs, and ten requests to it.

ray start --head
tagtrail start
python examples/counter_logging.py
"""

import logging
import os

import ray
import requests

import serve

PORT = int(os.environ.get("PORT", "8000"))

ray.init(address="auto")

logger = logging.getLogger("ray")


class Counter:
    def __init__(self):
        self.count = 0

    def __call__(self, request):
        self.count += 1
        logger.info(f"count: {self.count}")
        return {"count": self.count}


serve.create_backend("my_backend", Counter)
serve.create_endpoint("my_endpoint", backend="my_backend", route="/counter")

for _ in range(10):
    print(requests.get(f"http://127.0.0.1:{PORT}/counter").json())
