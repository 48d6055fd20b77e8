"""Coroutines that a plugin made and never awaited: a warning of Python, an error of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def forgotten_awaits() -> Iterator[list[str]]:
    """Collect them instead of printing warnings.

    Python notices when such a coroutine is thrown away, nearly always in the line that made it.

    Yields:
        A list that fills with sentences, each with file and line.
    """
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("always", "coroutine .* was never awaited", RuntimeWarning)
        show = warnings.showwarning

        def keep(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = str(message).partition("\n")[0]
            if issubclass(category, RuntimeWarning) and text.endswith("was never awaited"):
                place = filename.replace("\\", "/").rsplit("/", 1)[-1]
                found.append(f"{text}: write await before the call ({place}:{lineno})")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = keep
        yield found
