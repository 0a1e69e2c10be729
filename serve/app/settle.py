"""The Ray options of a file, as Ray takes them: what `serve.app.spec` alone can't know."""

from __future__ import annotations

from dataclasses import replace

from serve.actor_options import settle_actor_options
from serve.app.read import AppFile, FileError
from serve.app.records import Problem


def settle(app: AppFile) -> AppFile:
    """A file whose Ray options are those that a backend is created with.

    Raises:
        FileError: with each backend whose options Ray refuses.
    """
    backends, problems = {}, []
    for tag, wanted in app.wanted.backends.items():
        try:
            options = settle_actor_options(wanted.actor_options)
        except (TypeError, ValueError) as error:
            place = ("backends", tag, "ray_actor_options")
            problems.append(app.locate(Problem(place, str(error), is_key=True)))
            continue
        backends[tag] = replace(wanted, actor_options=options)
    if problems:
        raise FileError(problems)
    return replace(app, wanted=replace(app.wanted, backends=backends))
