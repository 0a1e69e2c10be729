"""One call a second, for ever, so that there is something to measure. Ctrl-C ends it.

ray start --head --metrics-export-port=8080
python examples/metrics_loop.py
"""

import time

import ray

import serve

ray.init(address="auto")
# No HTTP server: this script uses a handle only.
serve.start(http_options={"location": "NoServer"})


def f(request):
    time.sleep(1)


serve.create_backend("f", f)
serve.create_endpoint("f", backend="f")

handle = serve.get_handle("f")
try:
    while True:
        started = time.perf_counter()
        ray.get(handle.remote())
        print(f"answered in {time.perf_counter() - started:.3f} s", flush=True)
except KeyboardInterrupt:
    pass
