"""Three backends, and two requests through them at once, to follow: docs/following.md.

ray start --head
tagtrail start
python examples/following.py
"""

import asyncio
import logging
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import ray
import requests

import serve

PORT = int(os.environ.get("PORT", "8000"))
CRASHED = os.path.join(tempfile.mkdtemp(), "crashed")

ray.init(address="auto")

logger = logging.getLogger("ray")


async def store(request):
    """Keeps what it is given, but for oats; takes a minute for tea."""
    word = request.data
    if word == "oats":
        raise OSError("no shelf is free")
    if word == "tea":
        await asyncio.sleep(60)
    return f"kept {word}"


@serve.accept_batch
async def embed(requests):
    """Two words at a time."""
    logger.info("embedding %s", [request.data for request in requests])
    await serve.get_handle("store").call("the model's state")
    return [len(request.data) for request in requests]


class Search:
    """Has each word embedded, then stored. Its first replica that gets oats dies."""

    def __init__(self):
        self.embed = serve.get_handle("embed")
        self.store = serve.get_handle("store")

    async def __call__(self, request):
        word = request.query_params["q"]
        logger.info("searching %s", word)
        if word == "oats" and not os.path.exists(CRASHED):
            open(CRASHED, "w").close()
            await asyncio.sleep(0.5)
            os._exit(3)  # as a native library might
        size = await self.embed.call(word)
        return f"{await self.store.call(word)}, {size} letters"


small = {"num_cpus": 0.2}
serve.create_backend("store", store, ray_actor_options=small)
serve.create_endpoint("store", backend="store")
batches = {"max_batch_size": 2, "batch_wait_timeout": 5}
serve.create_backend("embed", embed, ray_actor_options=small, config=batches)
serve.create_endpoint("embed", backend="embed")
serve.create_backend("search", Search, ray_actor_options=small, config={"num_replicas": 2})
serve.create_endpoint("search", backend="search", route="/search")


def ask(word):
    """Send a request with an id of its own."""
    return requests.get(
        f"http://127.0.0.1:{PORT}/search", {"q": word}, headers={"X-Request-ID": f"my-{word}"}
    )


asked = {}
with ThreadPoolExecutor() as pool:
    for word in ("oats", "rice"):
        asked[word] = pool.submit(ask, word)
        time.sleep(0.2)
for word, answer in asked.items():
    print(word, answer.result().status_code, answer.result().text)
