"""The hands of a deploy: each step is one call of the API, which returns once it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from serve.app.steps import (
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    SetTraffic,
    ShadowTraffic,
    Step,
    UpdateBackend,
)
from serve.client import Client
from serve.definition import Definition
from serve.errors import RayServeException


class StepError(Exception):
    """A step could not be done. Those before it are, those after it are not."""

    def __init__(self, step: Step, cause: Exception) -> None:
        super().__init__(str(cause))
        self.step = step


def apply(client: Client, steps: Iterable[Step], tell: Callable[[Step], None]) -> None:
    """Carry steps out, one after the other.

    Args:
        client: of the instance.
        steps: of a plan.
        tell: called with each step once it is done.

    Raises:
        StepError: the API refused or could not do one.
    """
    for step in steps:
        try:
            _perform(client, step)
        except (RayServeException, ValueError, TypeError, TimeoutError) as error:
            raise StepError(step, error) from error
        tell(step)


def _perform(client: Client, step: Step) -> None:
    match step:
        case CreateBackend(wanted):
            source = wanted.source
            definition = Definition(source.path, source.init_args, source.init_kwargs)
            client.create_defined(wanted.tag, definition, wanted.actor_options, wanted.config)
        case UpdateBackend(tag, fields):
            client.update_backend_config(tag, fields)
        case DeleteBackend(tag):
            client.delete_backend(tag)
        case CreateEndpoint(wanted):
            methods = None if wanted.methods is None else list(wanted.methods)
            client.create_endpoint(
                wanted.name, backend=wanted.lead, route=wanted.route, methods=methods
            )
        case SetTraffic(name, weights):
            client.set_traffic(name, dict(weights))
        case ShadowTraffic(name, tag, proportion):
            client.shadow_traffic(name, tag, proportion)
        case DeleteEndpoint(name):
            client.delete_endpoint(name)
