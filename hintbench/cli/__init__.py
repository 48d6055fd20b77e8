"""The command line: options (`app` and a module a command), bodies, and what they print."""

from hintbench.cli.app import main

__all__ = ["main"]
