"""Start Ray and Serve in one file; both end with the script."""

import os
import time

import serve

PORT = int(os.environ.get("PORT", "8000"))

# This starts Ray on this machine (unless one runs already) and Serve on top of it.
serve.start(http_options={"port": PORT})


def my_backend_func(request):
    return "hello"


serve.create_backend("my_backend", my_backend_func)
serve.create_endpoint("my_endpoint", backend="my_backend", route="/hello")

# Serve is shut down once the script exits, so keep it alive.
try:
    while True:
        print(serve.list_backends(), flush=True)
        time.sleep(5)
except KeyboardInterrupt:
    pass
