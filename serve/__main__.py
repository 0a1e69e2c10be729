"""`python -m serve`."""

from serve.command.cli import main

main()
