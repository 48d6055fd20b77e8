"""What several seeds of one cell say together: means, intervals, and differences beyond chance.

A simulation of one seed is exact, but the seed is a draw: of lifetimes, orders, who frees what.
Student's t says how far the mean of a few draws may lie from that of all. Two versions are compared
seed by seed, since both see the same draws, and most of what chance does cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

CONFIDENCE: Final = 0.95
"""Of every interval; 1 minus this is the share of false findings that a comparison tolerates."""


class Interval(NamedTuple):
    """A mean over seeds, and where the mean of all seeds lies in 95 of 100 cases.

    Attributes:
        mean: Of the seeds that were run.
        low: Lower end of the interval.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """How far the ends lie from the mean."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float]) -> Interval:
    """The mean of at least two draws and its 95 % interval, by Student's t."""
    mean, error = _mean_and_error(values)
    if error == 0:
        return Interval(mean, mean, mean)
    # scipy takes a third of a second to import, and one seed is the usual case.
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * error
    return Interval(mean, mean - half, mean + half)


def chance_of(differences: Sequence[float]) -> float:
    """How likely chance alone makes paired differences so large (two-sided t test).

    Args:
        differences: New minus base, one a seed, at least two.

    Returns:
        A probability; 0 where all seeds differ by the same, 1 where none differs.
    """
    mean, error = _mean_and_error(differences)
    if error == 0:
        return 0.0 if mean else 1.0
    from scipy.special import stdtr

    return float(2 * stdtr(len(differences) - 1, -abs(mean) / error))


def beyond_chance(chances: Sequence[float]) -> list[bool]:
    """Which of many differences are real, when some must look so by chance (Benjamini, Hochberg).

    Args:
        chances: Of each difference, from `chance_of`.
    """
    if not chances:
        return []
    from scipy.stats import false_discovery_control

    adjusted = false_discovery_control(chances)
    return [bool(chance <= 1 - CONFIDENCE) for chance in adjusted]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; sums are exact, so that the order of seeds is nothing."""
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval needs at least two seeds, not {count}")
    if min(values) == max(values):
        return float(values[0]), 0.0
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)
