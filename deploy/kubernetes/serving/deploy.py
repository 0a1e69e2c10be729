"""Start Serve on a running Ray cluster, reachable from other machines, and say hello.

This is the script of the Kubernetes tutorial: there it runs on the head node.
"""

import os

import ray

import serve

PORT = int(os.environ.get("PORT", "8000"))

# Connect to the running Ray cluster.
ray.init(address="auto")
# Bind on 0.0.0.0 to expose the HTTP server on external IPs.
serve.start(detached=True, http_options={"host": "0.0.0.0", "port": PORT})


def hello():
    return "hello world"


serve.create_backend("hello_backend", hello)
serve.create_endpoint("hello_endpoint", backend="hello_backend", route="/hello")
