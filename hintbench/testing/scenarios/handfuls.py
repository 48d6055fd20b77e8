"""Scenarios of a handful of operations: what they show is small to begin with.

Most faults need no thousand operations but the right few: a burst of blocks that one CPU frees, a
drain, a reader in between. A schedule of these costs a millisecond, and its counterexample is
nearly as short as it can be.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from hintbench.operations import Flag, Migratetype, Operation, encode
from hintbench.testing.scenarios.dice import Dice
from hintbench.testing.scenarios.encounters import DRAINED, everybody_spins, split_and_merged
from hintbench.testing.scenarios.faults import (
    AT_ANSWER,
    AT_RESTORE,
    AT_STOP,
    COUNTED,
    FAILURES,
    INTERRUPTING,
    draw_counted,
)
from hintbench.testing.scenarios.guests import HOSTS, small_guest
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario
from hintbench.testing.schedules.preemption import EDIT, EVENT, HOLD, STEP, Preemption
from hintbench.testing.schedules.uniform import delay_ns

MADE_EVERY: Final = 64
PURPOSEFUL: Final = {0: everybody_spins, MADE_EVERY // 2: split_and_merged}
"""By the place among so many seeds what chance alone brings about too seldom."""
LAYOUTS: Final = ("tiny", "tiny", "halves", "half-nodes")
ORDERS: Final = (0, 3, 3, 4, 5, 7, 8, 9, 9, 10, 10)
BURSTS: Final = (1, 1, 1, 2, 2, 3, 4, 6, 8)
"""How many blocks of one order a CPU allocates, and frees, in one go."""
MOST_BURSTS: Final = 5
BEGIN_NS: Final = (280_000, 600_000)
"""When the vCPUs begin in some of them: while strategies with a delay of 300 us are at work."""
MOST_RESTORES: Final = 24
"""About so often a strategy's tasks and hooks switch interrupts on in such a scenario."""
LATE_NS: Final = 4_000_000
"""Longer than strategies wait for an interrupt before they look for themselves [virtual ns]."""
_FREE: Final = int(encode(Operation.FREE))

_Row = tuple[int, int, int, int]


def handful_scenario(seed: int, kernels: Sequence[str]) -> Scenario:
    """Draw a scenario of up to some dozens of operations.

    Args:
        seed: of all choices.
        kernels: the kernels to choose from.
    """
    rng = Dice(seed)
    made = PURPOSEFUL.get(seed % MADE_EVERY)
    if made is not None:
        return made(rng, kernels).but(seed=seed)
    vcpus = rng.randint(1, 3)
    kernel = rng.choice(list(kernels))
    host = rng.choice(("device", "small-granule", "slow", *sorted(HOSTS)))
    guest = small_guest(kernel, rng.choice(LAYOUTS), host, vcpus, khugepaged=rng.random() < 0.2)
    rows = _rows(rng, vcpus)
    return Scenario(
        guest=guest,
        operations=Operations.from_rows(rows),
        preemptions=_preemptions(rng, len(rows)),
        faults=_faults(rng, vcpus),
        seed=seed,
        settle=rng.random() < 0.7,
        family="handful",
    )


def _rows(rng: random.Random, vcpus: int) -> list[_Row]:
    """(vCPU, code, slot or 0, time) of each operation: bursts, freed in any order, and pauses."""
    slots = 0
    waiting: list[tuple[int, list[int]]] = []
    rows: list[_Row] = []
    bursts = rng.randint(1, MOST_BURSTS)
    while bursts or waiting:
        if bursts and (not waiting or rng.random() < 0.5):
            bursts -= 1
            cpu, count = rng.randrange(vcpus), rng.choice(BURSTS)
            code = _allocation(rng)
            mine = list(range(slots, slots + count))
            slots += count
            rows += [(cpu, code, slot, 0) for slot in mine]
            waiting.append((cpu if rng.random() < 0.7 else rng.randrange(vcpus), mine))
        else:
            cpu, mine = waiting.pop(rng.randrange(len(waiting)))
            # Every other one leaves what neither merges nor lies where it lay before.
            share = rng.random()
            freed = mine if share < 0.7 else mine[::2] if share < 0.85 else []
            rows += [(cpu, _FREE, slot, 0) for slot in freed]
        if rng.random() < 0.3:
            kind = rng.choice((Operation.IDLE, Operation.COMPUTE))
            rows.append((rng.randrange(vcpus), int(encode(kind)), 0, delay_ns(rng)))
    if rng.random() < 0.4:
        # Else most of it is over when strategies begin to tell of what was free before.
        idle, begin_ns = int(encode(Operation.IDLE)), rng.randint(*BEGIN_NS)
        rows[:0] = [(cpu, idle, 0, begin_ns + rng.randrange(1_000)) for cpu in range(vcpus)]
    return rows


def _allocation(rng: random.Random) -> int:
    """The code of an allocation."""
    order = rng.choice(ORDERS)
    flags = rng.choice((Flag.ZERO, Flag.ZERO, Flag.TOUCHED, Flag.TOUCHED | Flag.ATOMIC))
    if order >= 9:
        flags |= Flag.COMPOUND
    kind = rng.choice((Migratetype.MOVABLE, Migratetype.MOVABLE, Migratetype.UNMOVABLE))
    return int(encode(Operation.ALLOCATE, order, kind, int(flags)))


def _preemptions(rng: random.Random, operations: int) -> tuple[Preemption, ...]:
    """None, or up to four where the few steps are."""
    chosen = {}
    if rng.random() < 0.6:
        for _ in range(rng.randint(1, 4)):
            point = rng.choice((STEP, EVENT, HOLD, EDIT, EDIT))
            # Only a faulty strategy has edits to come between; the first are as good as any.
            most = 40 if point == EDIT else 4 * operations
            chosen[point, rng.randint(1, most)] = delay_ns(rng)
    return tuple(Preemption(*key, delay) for key, delay in sorted(chosen.items()))


def _faults(rng: random.Random, vcpus: int) -> tuple[Fault, ...]:
    """None, or one or two; a drain of all lists in every second."""
    faults = []
    if rng.random() < 0.4:
        kinds = (*COUNTED, *sorted(FAILURES), *INTERRUPTING)
        faults += draw_counted(rng, kinds, 3)
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 2)):
            faults.append(
                Fault("interrupt", rng.randint(1_000, 2_000_000), DRAINED, rng.randrange(vcpus))
            )
    if rng.random() < 0.15:
        # Each frees what the one before it has taken.
        first, times = rng.randint(1, MOST_RESTORES), rng.choice((2, 3, 6, 24))
        faults += [Fault(AT_RESTORE, number) for number in range(first, first + times)]
    if rng.random() < 0.15:
        amount = 1 << rng.randrange(6)
        time_ns = rng.randint(1_000, 2_000_000)
        faults.append(Fault("interrupt-allocates", time_ns, amount, rng.randrange(vcpus)))
    if rng.random() < 0.15:
        at_ns = 1 << rng.randint(6, 19)
        faults += [Fault(AT_STOP, 1, at_ns, cpu) for cpu in range(vcpus)]
    if rng.random() < 0.15:
        # Whoever looks for answers himself comes before an interrupt that is late.
        answers, amount = range(1, rng.randint(2, 5)), 1 << rng.randrange(5)
        faults += [Fault(AT_ANSWER, number, amount) for number in answers]
        faults += [Fault("interrupt-late", number, LATE_NS) for number in answers]
    return tuple(sorted(set(faults)))
