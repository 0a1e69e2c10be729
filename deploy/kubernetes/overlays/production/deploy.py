"""Bring about what should be served, on each node that has an HTTP server. It can be run again.

A new version is a new backend: it starts beside the old one, gets the traffic when it runs, and the
old one is deleted when its last request is done. Nobody waits, and nothing fails.
"""

import ray

import serve

VERSION = "1"
NAME = f"hello_{VERSION}"


def hello():
    return "hello world"


ray.init(address="auto")
try:
    serve.connect()
except serve.RayServeException:
    serve.start(detached=True, http_options={"host": "0.0.0.0", "location": "EveryNode"})

if NAME not in serve.list_backends():
    serve.create_backend(NAME, hello, config={"num_replicas": 2})
if "hello_endpoint" in serve.list_endpoints():
    serve.set_traffic("hello_endpoint", {NAME: 1.0})
else:
    serve.create_endpoint("hello_endpoint", backend=NAME, route="/hello")
for old in serve.list_backends():
    if old.startswith("hello_") and old != NAME:
        serve.delete_backend(old)
