"""A metric of one's own, tagged with the backend that counts."""

import ray
from ray.util import metrics

import serve

# No HTTP server: this script uses a handle only.
serve.start(http_options={"location": "NoServer"})


class MyBackendClass:
    def __init__(self):
        self.my_counter = metrics.Counter(
            "my_counter",
            description="The number of excellent requests to this backend.",
            tag_keys=("backend",),
        )
        self.my_counter.set_default_tags({"backend": serve.get_current_backend_tag()})

    def __call__(self, request):
        if "excellent" in request.query_params:
            self.my_counter.inc()
            return "counted"
        return "not counted"


serve.create_backend("my_backend", MyBackendClass)
serve.create_endpoint("my_endpoint", backend="my_backend")

handle = serve.get_handle("my_endpoint")
print(ray.get(handle.remote(excellent=True)))
print(ray.get(handle.remote()))
