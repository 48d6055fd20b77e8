"""PCT: probabilistic concurrency testing, by priority change points.

Whoever has the highest priority runs until a change point takes it away. In virtual time a low
priority is a long delay: a few contexts start late, and at a few random steps whoever runs falls
behind everybody else for milliseconds.

Source: Burckhardt, Kothari, Musuvathi, Nagarakatte: "A Randomized Scheduler with Probabilistic
Guarantees of Finding Bugs", ASPLOS 2010.
"""

from __future__ import annotations

import random

from hintbench.testing.schedules.preemption import EVENT, HOLD, STEP, Preemption

FIRST_STEPS = 6
"""Steps at the start that are vCPUs' or tasks' first: a delay there is an initial priority."""
FIRST_EVENTS = 300
"""Steps of tasks, interrupts and the host that most scenarios have."""


def draw(rng: random.Random, operations: int) -> tuple[Preemption, ...]:
    """Draw initial priorities and one to three change points.

    Args:
        rng: of all choices.
        operations: how many the scenario has.
    """
    chosen = {}
    for number in range(1, FIRST_STEPS + 1):
        if rng.random() < 0.5:
            chosen[STEP, number] = rng.randrange(1 << 20)
    for _ in range(rng.randint(1, 3)):
        point = rng.choice((STEP, EVENT, HOLD))
        most = FIRST_EVENTS if point == EVENT else 3 * operations
        number = rng.randint(FIRST_STEPS + 1, most)
        chosen[point, number] = rng.randrange(1 << 20, 1 << 22)
    return tuple(Preemption(*key, delay) for key, delay in sorted(chosen.items()))
