"""Random preemptions, anywhere and of any length."""

from __future__ import annotations

import random

from hintbench.testing.schedules.preemption import EDIT, EVENT, HOLD, STEP, Preemption


def draw(rng: random.Random, operations: int) -> tuple[Preemption, ...]:
    """Draw up to 24 preemptions: before steps mostly, some with a lock held, some inside edits.

    Half of the steps are those of tasks, interrupts and the host: there the strategy works.

    Args:
        rng: of all choices.
        operations: how many the scenario has; steps are a few times as many.
    """
    chosen = {}
    for _ in range(rng.randint(1, 24)):
        point = rng.choice((STEP, EVENT, EVENT, HOLD, EDIT))
        if point == STEP:
            number = rng.randint(1, 3 * operations)
        elif point == EVENT:
            number = rng.randint(1, 1 << rng.randint(4, 9))
        elif point == HOLD:
            number = rng.randint(1, operations)
        else:
            # Only a faulty strategy has these; the first of them are as good as any.
            number = 1 << rng.randint(0, 7) | rng.getrandbits(3)
        chosen[point, number] = delay_ns(rng)
    return tuple(Preemption(*key, delay) for key, delay in sorted(chosen.items()))


def delay_ns(rng: random.Random) -> int:
    """A delay between 128 ns (a cache line) and 4 ms (a stolen vCPU), log-uniform."""
    low = 1 << rng.randint(7, 21)
    return low + rng.randrange(low)
