"""Random choices by the hundred, for scenarios: the numbers of `random.Random`, in less time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Chosen = TypeVar("Chosen")


class Dice(random.Random):
    """Draws the numbers that `random.Random` draws.

    There a choice is three functions deep, and drawing scenarios is a twelfth of exploring them.
    """

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """A number of ``range(start, stop)``; steps but 1 are not for scenarios."""
        if step != 1:
            raise ValueError(f"randrange: step is {step!r}, must be 1")
        first, size = (0, start) if stop is None else (start, stop - start)
        if size < 1:
            raise ValueError(f"there is no number in range({start}, {stop})")
        bits = size.bit_length()
        drawn = self.getrandbits(bits)
        while drawn >= size:
            drawn = self.getrandbits(bits)
        return first + drawn

    def randint(self, a: int, b: int) -> int:
        """A number of ``a..b``."""
        size = b - a + 1
        if size < 1:
            raise ValueError(f"there is no number in {a}..{b}")
        bits = size.bit_length()
        drawn = self.getrandbits(bits)
        while drawn >= size:
            drawn = self.getrandbits(bits)
        return a + drawn

    def choice(self, seq: Sequence[Chosen]) -> Chosen:  # type: ignore[override]
        """One of some."""
        size = len(seq)
        if not size:
            raise IndexError("there is nothing to choose from")
        bits = size.bit_length()
        drawn = self.getrandbits(bits)
        while drawn >= size:
            drawn = self.getrandbits(bits)
        return seq[drawn]
