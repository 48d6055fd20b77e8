"""Schedules: who is late where. One small file for each way of choosing.

A schedule is a list of preemptions, drawn before the run, so that any of them can be replayed and
shrunk alike.
"""

from __future__ import annotations

import random

from hintbench.testing.schedules import priorities, uniform
from hintbench.testing.schedules.preemption import Preemption

__all__ = ["draw_preemptions"]


def draw_preemptions(rng: random.Random, operations: int) -> tuple[Preemption, ...]:
    """Draw a schedule for a scenario of so many operations, by one of the ways."""
    way = rng.random()
    if way < 0.1:
        return ()
    if way < 0.4:
        return priorities.draw(rng, operations)
    return uniform.draw(rng, operations)
