"""What plugins print: standard output is for results."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
