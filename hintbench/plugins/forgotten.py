"""Coroutines that a plugin made and never awaited: a warning of Python, an error of a run."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, TextIO

_ORIGIN: Final = re.compile(r'^  File "(.*)", line (\d+), in ', re.MULTILINE)
"""Where a coroutine was made, as Python's warning says when it has kept that."""
_PLACE: Final = re.compile(r"\([^()]+:\d+\)$")
"""File and line at the end of a sentence."""
_TELLING: Final = frozenset({__file__, warnings.__file__})
"""Files whose functions run while Python tells of a coroutine that it throws away."""
_collecting: Final[list[list[str]]] = []
"""The lists that fill now, the innermost last."""


@contextmanager
def forgotten_awaits(*, origins: bool = True) -> Iterator[list[str]]:
    """Collect the first of them instead of printing warnings.

    Python notices such a coroutine when it is thrown away, which may be long after the line that
    made it: that line is kept, which costs less than making the coroutine.

    Args:
        origins: keep these lines. Without them the sentence names the line where Python noticed.

    Yields:
        A list that gets a sentence, with file and line. One is enough: what was not awaited in a
        loop comes again and again.
    """
    found: list[str] = []
    depth = sys.get_coroutine_origin_tracking_depth()
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
            text, _, origin = str(message).partition("\n")
            if not (issubclass(category, RuntimeWarning) and text.endswith("was never awaited")):
                show(message, category, filename, lineno, file, line)
            elif not found:
                made = _ORIGIN.search(origin)
                where, number = (made[1], made[2]) if made else (filename, str(lineno))
                place = where.replace("\\", "/").rsplit("/", 1)[-1]
                found.append(f"{text}: write await before the call ({place}:{number})")

        warnings.showwarning = keep
        if origins:
            sys.set_coroutine_origin_tracking_depth(max(depth, 1))
        _collecting.append(found)
        try:
            yield found
        finally:
            _collecting.pop()
            sys.set_coroutine_origin_tracking_depth(depth)


def explains(sentence: str, error: BaseException) -> bool:
    """Whether a forgotten await is the likely cause of an error.

    Not where one line did both: a call that raised has thrown away the coroutine that it was given.

    Args:
        sentence: one of `forgotten_awaits`.
        error: what was raised.
    """
    place = _PLACE.search(sentence)
    return place is None or place[0] not in str(error)


def forgotten_now() -> str:
    """What the running `forgotten_awaits` has collected; "" if nothing."""
    return _collecting[-1][0] if _collecting and _collecting[-1] else ""


def is_being_told(frame: FrameType | None) -> bool:
    """Whether Python is telling of such a coroutine: what is raised then is lost.

    Args:
        frame: the innermost.
    """
    while frame is not None:
        if frame.f_code.co_filename in _TELLING:
            return True
        frame = frame.f_back
    return False
