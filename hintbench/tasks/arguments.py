"""Checks of what a strategy passes to the guest, with what would be right in the message."""

from __future__ import annotations

import inspect
import operator
from typing import Any, Final

MOST_NS: Final = 1 << 60
"""The longest duration [virtual ns], 36 years: sums of some are still times that the core knows."""


def whole_ns(what: str, ns: Any) -> int:
    """A duration in virtual time.

    Args:
        what: the call, and the argument where that is not plain; for messages.
        ns: nanoseconds.

    Raises:
        TypeError: it is no whole number, such as the seconds that ``asyncio.sleep`` takes.
        ValueError: it is negative, or above `MOST_NS`.
    """
    try:
        whole = operator.index(ns)
    except TypeError:
        raise TypeError(
            f"{what}: {ns!r} is not a whole number of nanoseconds, e.g. 50_000_000 for 50 ms"
        ) from None
    if whole < 0:
        raise ValueError(f"{what}: {whole} ns is negative")
    if whole > MOST_NS:
        # Its digits may be too many to print.
        size = f"{whole} ns is" if whole < MOST_NS << 10 else "that is"
        raise ValueError(f"{what}: {size} more than 36 years, at most {MOST_NS} ns")
    return whole


def check_coroutine(what: str, coroutine: object) -> None:
    """Refuse what is not a coroutine, such as an async function that was not called.

    Args:
        what: the call, for messages.
        coroutine: what was passed.

    Raises:
        TypeError: it is none.
    """
    if inspect.iscoroutine(coroutine):
        return
    if callable(coroutine):
        name = getattr(coroutine, "__name__", "work")
        raise TypeError(f"{what}: {name} is not a coroutine: call it, as in {name}()")
    raise TypeError(
        f"{what}: {type(coroutine).__name__} is not a coroutine: pass what an async def returns"
    )
