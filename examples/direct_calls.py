"""`handle.call`: from a script and from another backend, with no Ray call on the way."""

import asyncio

import serve

# No HTTP server: this script uses handles only.
serve.start(http_options={"location": "NoServer"})


def count_words(request):
    return len(request.data.split())


class Compare:
    """A backend on top of another one: it asks `words` about both texts at the same time."""

    def __init__(self):
        self.words = serve.get_handle("words")

    async def __call__(self, request):
        left, right = await asyncio.gather(*map(self.words.call, request.data))
        return {"left": left, "right": right, "longer": "left" if left > right else "right"}


# Both fit on one core, so that the script also runs on a small machine.
half = {"num_cpus": 0.5}
serve.create_backend("words", count_words, ray_actor_options=half)
serve.create_endpoint("words", backend="words")
serve.create_backend("compare", Compare, ray_actor_options=half)
serve.create_endpoint("compare", backend="compare")

# In blocking code: result(). Its limit is for the wait; cancel() ends the call itself.
words = serve.get_handle("words")
print(words.call("one two three").result(timeout_s=10))


# In asynchronous code: await.
async def main():
    compare = serve.get_handle("compare")
    print(await compare.call(["a short text", "a text that is longer"]))


asyncio.run(main())
