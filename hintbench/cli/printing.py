"""Beside results: what plugins print, and that the core is not compiled."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def warn_interpreted() -> None:
    """Say on standard error that the core is not compiled, if it is not."""
    from hintbench.core import BUILD

    if BUILD == "interpreted":
        note = "note: the core runs interpreted and about 100 times slower; it was not compiled"
        typer.echo(f"hintbench: {note}", err=True)


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Let what plugins print go to standard error, or nowhere if there is none.

    It moves the file descriptor, so that it holds for what is written past `sys.stdout`, and for
    processes that are started meanwhile.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        # There is no standard output.
        yield
        return
    # Without standard error its number is free, or has become that of any file.
    nowhere = os.open(os.devnull, os.O_WRONLY) if sys.__stderr__ is None else None
    os.dup2(2 if nowhere is None else nowhere, 1)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            if nowhere is not None:
                os.close(nowhere)
