"""Two ways to log from a backend: the `ray` logger, and a logger of one's own."""

import logging

import ray

import serve

# No HTTP server: this script uses handles only.
serve.start(http_options={"location": "NoServer"})

logger = logging.getLogger("ray")


def f(request):
    logger.info("Some info!")


class WithOwnLogger:
    def __init__(self):
        context = serve.get_replica_context()
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter(
                f"%(levelname)s %(message)s "
                f"backend={context.backend_tag} replica={context.replica_tag}"
            )
        )
        self.logger = logging.getLogger("my_application")
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(handler)

    def __call__(self, request):
        self.logger.info("Some more info!")


for tag, backend in {"my_backend": f, "my_other_backend": WithOwnLogger}.items():
    serve.create_backend(tag, backend)
    serve.create_endpoint(tag, backend=tag)
    ray.get(serve.get_handle(tag).remote())
