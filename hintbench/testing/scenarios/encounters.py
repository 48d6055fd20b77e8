"""Families of scenarios that bring about what chance seldom does.

Interrupts that meet a report, a unit that is split and merged while it is in flight, memory of
which the large blocks are all isolated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from hintbench.guest.boot import pcp_batch
from hintbench.operations import Flag, Migratetype, Operation, encode
from hintbench.testing.scenarios.guests import ZONE_LAYOUTS, small_guest
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario, join

ENCOUNTERS: Final = frozenset({"drains", "storms", "depletion"})
"""Families that are made here, besides what their mix of operations is."""
DRAINED: Final = 1_000
"""Batches of a list that is emptied."""
FIRST_REPORTS_NS: Final = (300_000, 3_000_000)
"""When strategies tell of what is free at the start, with their delays for exploration."""
_FIRST_REPORT_NS: Final = 320_000
"""When those with a delay of 300 us have begun to tell of that."""
SLOW_HOSTS: Final = ("slow", "slower")
"""Hosts that have a report long enough for something to happen to its pages."""
_BLOCK: Final = 1024


def interrupts_of(rng: random.Random, family: str, vcpus: int, zone_pages: int) -> list[Fault]:
    """The interrupts that a family is about.

    Args:
        rng: of all choices.
        family: one of `ENCOUNTERS`, or another, which has none.
        vcpus: of the guest.
        zone_pages: of its largest zone.
    """
    if family == "drains":
        # What a list holds goes back at once, to merge while its unit may be in flight.
        faults = [
            Fault("interrupt", rng.randint(1_000_000, 6_000_000), DRAINED, rng.randrange(vcpus))
            for _ in range(40)
        ]
        faults.append(Fault("interrupt-allocates", _REST_NS, _rest(zone_pages) - 1, 0))
        faults += [
            Fault("interrupt", _CROSSING_NS + rng.randint(2_000, 150_000), DRAINED, 1)
            for _ in range(3)
        ]
        return faults
    if family == "storms":
        storms = []
        for _ in range(rng.randint(1, 2)):
            at, pages = rng.randint(*FIRST_REPORTS_NS), 1 << rng.randint(5, 9)
            storms += [Fault("interrupt-allocates", at + cpu, pages, cpu) for cpu in range(vcpus)]
        return storms
    return []


def everybody_spins(rng: random.Random, kernels: Sequence[str]) -> Scenario:
    """Interrupts on all vCPUs take pages of the first block that is told, until all of them spin.

    Nothing is free but whole blocks, and strategies begin at the lowest addresses, as 6.12's lists
    do. An idle guest does nothing else, so it happens on every seed.

    Args:
        rng: of the choices.
        kernels: the kernels to choose from, the first of which is taken.
    """
    vcpus = rng.randint(1, 3)
    faults = tuple(
        Fault("interrupt-allocates", at_ns, 1, cpu)
        for at_ns in range(_FIRST_REPORT_NS, _FIRST_REPORT_NS + 1_500_000, 50_000)
        for cpu in range(vcpus)
    )
    waits = [(cpu, encode(Operation.IDLE_UNTIL), 0, 8_000_000) for cpu in range(vcpus)]
    return Scenario(
        guest=small_guest(kernels[0], "tiny", rng.choice(SLOW_HOSTS), vcpus),
        operations=Operations.from_rows(waits),
        faults=faults,
        family="everybody spins",
    )


def split_and_merged(rng: random.Random, kernels: Sequence[str]) -> Scenario:
    """A refill splits a block that is being told, and a drain makes it whole again meanwhile.

    Args:
        rng: of the choices.
        kernels: the kernels to choose from, the first of which is taken.
    """
    guest = small_guest(kernels[0], "one", rng.choice(SLOW_HOSTS), rng.randint(2, 4))
    zone_pages = max(blocks for _, _, blocks, _ in ZONE_LAYOUTS["one"]) * _BLOCK
    drains = range(_CROSSING_NS + rng.randint(2_000, 10_000), _CROSSING_NS + 60_000, 10_000)
    faults = [Fault("interrupt", at_ns, DRAINED, 1) for at_ns in drains]
    faults.append(Fault("interrupt-allocates", _REST_NS, _rest(zone_pages) - 1, 0))
    # Something happens afterwards, while the host is still at work.
    last = [
        (0, encode(Operation.IDLE_UNTIL), 0, _CROSSING_NS + 80_000),
        (0, encode(Operation.FREE), _LARGEST_OF_CROSSING, 0),
    ]
    operations = join([_crossing(0, 2, _CROSSING_NS), Operations.from_rows(last)])
    return Scenario(guest, operations, faults=tuple(sorted(faults)), family="split and merged")


def begin(family: str, operations: Operations, vcpus: int, zone_pages: int) -> Operations:
    """Put what a family begins with before its operations.

    Args:
        family: one of `ENCOUNTERS`, or another, which begins with nothing.
        operations: what follows.
        vcpus: of the guest.
        zone_pages: of its largest zone.
    """
    if family not in ("drains", "depletion"):
        return operations
    slot = int(operations.value[operations.on_slots].max(initial=0)) + 1
    first = _crossing(slot, vcpus) if family == "drains" else _depletion(slot, zone_pages)
    return join([first, operations])


# -- drains: a refill that crosses from one block to the next -----------------------------------

_REST_NS: Final = 100_000
_CROSSING_NS: Final = 350_000
_AFTER_NS: Final = 1_000_000
_LARGEST_OF_CROSSING: Final = 7
"""The slot of the last block that `_crossing` takes from CPU 0 [slots after its first]."""


def _rest(zone_pages: int) -> int:
    """Pages of the first block that neither a refill nor blocks of order 4 and more take."""
    return (_BLOCK - pcp_batch(zone_pages)) % 16 or 16


def _crossing(slot: int, vcpus: int, after_ns: int = _AFTER_NS) -> Operations:
    """Use up a block of order 10 but for one page, so that the next refill splits another.

    The taker gets that one page, and what else its list has comes out of the other block, which
    may be in flight: a drain makes it whole again. CPU 0 takes a page, and what is left of its
    block by orders that per-CPU lists do not hold; an interrupt takes single pages until there is
    one left; CPU 1 takes the next page.
    """
    orders = (0, 4, 5, 6, 7, 8, 8, 8)
    codes = [
        encode(Operation.ALLOCATE, order, Migratetype.MOVABLE, int(Flag.TOUCHED))
        for order in orders
    ]
    wait = encode(Operation.IDLE_UNTIL)
    return Operations.from_rows(
        [
            *((0, code, slot + at, 0) for at, code in enumerate(codes)),
            (1, wait, 0, _CROSSING_NS),
            (1, codes[0], slot + len(orders), 0),
            *((cpu, wait, 0, after_ns) for cpu in range(vcpus)),
        ]
    )


# -- depletion: large blocks are isolated while only small ones are free --------------------------


def _depletion(slot: int, zone_pages: int) -> Operations:
    """Leave free memory in pieces of order 3 and two blocks of order 5, which are freed last.

    Whoever isolates these leaves nothing large: what is allocated then splits the pieces.
    """
    allocate = encode(Operation.ALLOCATE, 3, Migratetype.MOVABLE, int(Flag.TOUCHED))
    small = zone_pages // 8 * 15 // 16
    large = encode(Operation.ALLOCATE, 5, Migratetype.MOVABLE, int(Flag.TOUCHED))
    table: list[tuple[Any, ...]] = [(0, large, slot + at, 0) for at in range(2)]
    table += [(0, allocate, slot + 2 + at, 0) for at in range(small)]
    free = encode(Operation.FREE)
    table += [(0, free, slot + 2 + at, 0) for at in range(0, small // 2, 2)]
    table += [(0, free, slot + at, 0) for at in range(2)]
    # Another CPU takes small blocks while those two are away.
    single = encode(Operation.ALLOCATE, 2, Migratetype.MOVABLE, int(Flag.TOUCHED))
    last = slot + 2 + small
    table.append((1, free, slot + 2 + small // 2 & ~1, 0))
    table += [(1, single, last + at, 0) for at in range(40)]
    return Operations.from_rows(table)
