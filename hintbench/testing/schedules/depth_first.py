"""Bounded depth-first search: every way to be late at up to a few points of a tiny scenario."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from hintbench.testing.schedules.preemption import Preemption

DELAYS_NS = (1_000, 50_000, 2_000_000)
"""Lengths that are tried: a slow cache line, a report, a stolen vCPU."""


def enumerate_preemptions(
    points: dict[int, int], depth: int = 2
) -> Iterator[tuple[Preemption, ...]]:
    """All schedules of a run, those with fewer preemptions first.

    Args:
        points: by kind of point, how many of them the undisturbed run has.
        depth: the most preemptions of one schedule.
    """
    places = [(point, number) for point, most in points.items() for number in range(1, most + 1)]
    for count in range(depth + 1):
        for chosen in combinations(places, count):
            for delays in product(DELAYS_NS, repeat=count):
                yield tuple(
                    Preemption(point, number, delay_ns)
                    for (point, number), delay_ns in zip(chosen, delays, strict=True)
                )
