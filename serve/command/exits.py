"""How the commands end when something could not be done."""

from __future__ import annotations

import sys
from typing import NoReturn

import click

EXIT_FAILED = 1
EXIT_DIFFERS = 3
"""Something is not as it should be: `status` and `diff` say so."""


def fail(message: str) -> NoReturn:
    """Tell what went wrong, and end with 1."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(EXIT_FAILED)
