"""Deploy on a Ray cluster where Serve runs already. It stays when this script ends.

ray start --head
tagtrail start
python examples/connect_to_cluster.py
"""

import ray

import serve

# This connects to the running Ray cluster.
ray.init(address="auto")


def my_backend_func(request):
    return "hello"


# The functions of `serve` find the cluster's instance by themselves.
serve.create_backend("my_backend", my_backend_func)
serve.create_endpoint("my_endpoint", backend="my_backend", route="/hello")
print(serve.list_endpoints())
