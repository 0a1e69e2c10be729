"""A FastAPI application whose routes are methods of a backend. Needs `pip install fastapi`."""

import os

import requests
from fastapi import FastAPI

import serve

PORT = int(os.environ.get("PORT", "8000"))

serve.start(http_options={"port": PORT})

app = FastAPI()


@serve.ingress(app)
class Greeter:
    def __init__(self, greeting):
        self.greeting = greeting

    @app.get("/hello/{name}")
    def hello(self, name: str, times: int = 1):
        return {"message": " ".join([f"{self.greeting} {name}!"] * times)}


serve.create_backend("greeter", Greeter, "Hello")
# The application answers everything below its endpoint's route.
serve.create_endpoint("greet", backend="greeter", route="/greet")

url = f"http://127.0.0.1:{PORT}/greet/hello/Ada"
print(requests.get(url).json())
print(requests.get(url, params={"times": 2}).json())

refused = requests.get(url, params={"times": "often"})
print(refused.status_code, refused.json()["detail"][0]["msg"])
