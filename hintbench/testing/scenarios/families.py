"""Families of scenarios: what the vCPUs do, drawn from a seed.

Each family provokes what the others seldom do: mixed orders, huge pages, blocks that are freed
page by page, memory that runs out, a strategy that is stopped with reports in flight.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np

from hintbench.operations import Flag, Migratetype, Operation, encode
from hintbench.tapes import Draws
from hintbench.testing.scenarios.dice import Dice
from hintbench.testing.scenarios.encounters import (
    DRAINED,
    ENCOUNTERS,
    SLOW_HOSTS,
    begin,
    interrupts_of,
)
from hintbench.testing.scenarios.faults import AT_STOP, COUNTED, INTERRUPTING, TIMED, draw_counted
from hintbench.testing.scenarios.guests import HOSTS, layout_pages, small_guest
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario
from hintbench.testing.schedules import draw_preemptions

OPERATIONS: Final = 1_040
"""How many operations a scenario has at least."""
CUT: Final = 400
"""So many operations are left out at the end of every second scenario, so that memory is in use
when it ends: what has been lost would come free once more, and be found, if all were freed."""
LATE_NS: Final = 5_000_000_000
"""When every strategy has been stopped, which claims to tell within two seconds [virtual ns]."""
TIMED_KINDS: Final = tuple(sorted(TIMED))
_SCALE: Final = 1 << 20
_INDEX_BITS: Final = 11
"""Enough for the index of every allocation and free."""

MIXES: Final[dict[str, Sequence[tuple[int, int, float]]]] = {
    "mixed": (
        (0, 800, 60),
        (1, 60, 8),
        (2, 60, 8),
        (3, 60, 10),
        (5, 20, 4),
        (9, 20, 8),
        (10, 8, 4),
    ),
    "huge": ((0, 600, 40), (3, 200, 8), (9, 50, 10), (10, 20, 5)),
    "fragments": ((0, 900, 500), (1, 60, 30), (3, 80, 120), (9, 10, 5)),
    # Sizes that no per-CPU list takes: large blocks are split and merge all the time.
    "splits": ((0, 300, 30), (5, 200, 30), (7, 100, 15), (8, 60, 8), (9, 30, 6), (10, 12, 2)),
    # Pages come out of large blocks through per-CPU lists, and go back while the host works.
    "drains": ((0, 800, 1200), (2, 120, 120), (3, 80, 80), (9, 20, 4), (10, 10, 2)),
    # Interrupts on all CPUs at once take what is being told.
    "storms": ((0, 300, 30), (5, 100, 10), (9, 60, 6), (10, 30, 4)),
    # Small pieces only, while what is larger is isolated.
    "depletion": ((0, 100, 40), (1, 60, 20), (2, 60, 20), (3, 60, 20), (5, 20, 4)),
    "pressure": ((0, 700, 200), (2, 100, 30), (4, 100, 20), (9, 30, 18), (10, 15, 7)),
}
"""By family (order, weight, live blocks): how often an order is asked for, and how many blocks of
it are in use at a time on a guest of 16,384 pages."""
LAYOUTS: Final = ("one", "one", "one", "half", "halves", "half-nodes", "two")
"""Of `ZONE_LAYOUTS`: on small guests the same pages are met again sooner, on the largest a drain
takes more than one page at a time."""
CALM_LAYOUTS: Final = ("tiny", "tiny", "tiny", "half", "halves", "half-nodes")
"""The same for calm scenarios: a strategy that tells of all memory at first has soon done so."""
PRESSED_LAYOUTS: Final = ("half", "half", "halves", "half-nodes")
"""The same for calm scenarios in which memory runs out: on the smallest guests that is met late,
and nothing is told by then."""
BUSY: Final = 8
"""One scenario in so many is busy: a schedule in it holds so many reports that it takes as long as
several calm ones, which see fewer things at once, but the rest of the time."""
CALM_SHARE: Final = 8
"""In calm scenarios blocks of `LARGE` orders are one in so many of what they are in busy ones."""
LARGE: Final = 5
CROWDED: Final = ("mixed", "huge", "splits")
"""Families of which that is so."""
SHARING: Final = 4
"""So many calm scenarios in a row have the same operations: drawing them costs as much as half of
a run, and who is late when matters more."""
VCPUS: Final = 4
PAUSES: Final = (2, 4, 8)
"""One operation in so many is followed by a pause."""
CALM_PAUSES: Final = (4, 8, 16)
"""The same in calm scenarios: in less time a strategy's timers fire less often."""
CALM_FAMILIES: Final = ("mixed", "huge", "fragments", "pressure", "splits", "splits")
FAMILIES: Final = (*CALM_FAMILIES, "drains", "drains", "storms", "depletion")
"""Of busy scenarios; "drains" finds most for its time."""
SETTLED: Final = (0.75, 0.6)
"""The share of scenarios, calm and busy ones, in which the strategy is given its time before it is
stopped: one with a timer of 50 ms tells nothing in most of the others."""
PACES: Final = (1, 1, 1, 1, 1, 1, 16, 128)
"""How many times longer the pauses are: most scenarios take some milliseconds, some a second, in
which a strategy with a timer of 50 ms has its passes while memory is still in use."""
CALM_PACES: Final = (*(1,) * 22, 16, 128)
"""The same in calm scenarios: in a second a strategy looks thousands of times in vain for work."""


def draw_scenario(seed: int, kernels: Sequence[str] = ("6.12", "5.0")) -> Scenario:
    """Draw a scenario: everything in it follows from the seed.

    Args:
        seed: of all choices.
        kernels: the kernels to choose from.
    """
    busy = is_busy(seed)
    drawn = _draw_work(seed if busy else seed // SHARING, busy)
    family, layout, operations = drawn.family, drawn.layout, drawn.operations
    rng = Dice(seed)
    host = rng.choice(("device", "small-granule", "slow", *sorted(HOSTS)))
    if family in ENCOUNTERS:
        host = rng.choice(SLOW_HOSTS)
    # "drains" aims at what 6.12 lists first and strategies tell first, the lowest addresses.
    kernel = kernels[0] if family == "drains" else rng.choice(list(kernels))
    guest = small_guest(kernel, layout, host, VCPUS, khugepaged=rng.random() < 0.3)
    pages = layout_pages(layout)
    preemptions = draw_preemptions(rng, len(operations))
    faults = {*_draw_faults(rng, guest.vcpus), *interrupts_of(rng, family, guest.vcpus, pages)}
    return Scenario(
        guest=guest,
        operations=operations,
        preemptions=preemptions,
        faults=tuple(sorted(faults)),
        seed=seed,
        settle=rng.random() < SETTLED[busy] or family == "depletion",
        family=family,
    )


def is_busy(seed: int) -> bool:
    """Whether the scenario of a seed is one of the few that hold many reports."""
    # Neither all even nor all odd: two workers that share the seeds have as many each.
    return (seed + seed // BUSY) % BUSY == 0


@dataclass(frozen=True, slots=True)
class _Work:
    """What the vCPUs of a scenario do, and on what memory.

    Attributes:
        family: one of `FAMILIES`.
        layout: one of `ZONE_LAYOUTS`.
        operations: what they do.
    """

    family: str
    layout: str
    operations: Operations


@lru_cache(maxsize=4)
def _draw_work(seed: int, busy: bool) -> _Work:
    """Draw what several scenarios share that differ in who is late and in what goes wrong."""
    rng = Dice(seed)
    family = rng.choice(FAMILIES if busy else CALM_FAMILIES)
    layouts = PRESSED_LAYOUTS if family == "pressure" else CALM_LAYOUTS
    layout = rng.choice(LAYOUTS if busy else layouts)
    if family in ENCOUNTERS:
        layout = "tiny" if family == "depletion" else "one"
    pages, pauses = layout_pages(layout), rng.choice(PAUSES if busy else CALM_PAUSES)
    pace = rng.choice(PACES if busy else CALM_PACES)
    operations = draw_operations(seed, family, VCPUS, pages, pauses, pace, busy=busy)
    return _Work(family, layout, begin(family, operations, VCPUS, pages))


def draw_operations(
    seed: int,
    family: str,
    vcpus: int,
    pages: int,
    pauses: int,
    pace: int = 1,
    *,
    busy: bool = True,
) -> Operations:
    """Draw what the vCPUs do.

    Args:
        seed: of all choices.
        family: one of `FAMILIES`.
        vcpus: how many CPUs share the work.
        pages: the size of the guest.
        pauses: one operation in so many is followed by a pause.
        pace: how many times longer than usual the pauses are.
        busy: large blocks are as frequent as `MIXES` says, not `CALM_SHARE` of that.
    """
    draws = Draws(seed, 1)
    mix = _mix(family, busy)
    cut = CUT if draws.below(2, 1)[0] else 0
    count = (OPERATIONS + cut) // 2
    # All at once: a call of numpy's costs as much as the drawing of many numbers.
    rows = (draws.raw(7 * count) >> np.uint64(32)).astype(np.int64).reshape(7, count)
    kinds = mix.kinds[_scaled(rows[0], len(mix.kinds))]
    begins = _scaled(rows[1], _SCALE)
    # Exponential life times would leave long tails in use; twice uniform has the same mean.
    spans = (2 * _SCALE * mix.shares[kinds] * (pages / 16_384 / count)).astype(np.int64) + 1
    vcpu = _scaled(rows[3], vcpus)
    # Every fifth is freed elsewhere.
    elsewhere = _scaled(rows[4], 5 * vcpus)
    freeing = np.where(elsewhere < vcpus, elsewhere, vcpu)
    codes = mix.codes[kinds] | _TYPES[_scaled(rows[5], len(_TYPES))]
    codes |= _FLAGS[mix.is_huge[kinds], _scaled(rows[6], len(_FLAGS[0]))]
    # Packed with its index, each time can be sorted by value: stable, and faster than by index.
    when = np.concatenate([begins, begins + 1 + _scaled(rows[2], spans)]) << _INDEX_BITS
    order = np.sort(when | np.arange(2 * count))[:OPERATIONS] & ((1 << _INDEX_BITS) - 1)
    slots = order % count
    frees = order >= count
    everything = Operations(
        np.where(frees, freeing[slots], vcpu[slots]).astype(np.int8),
        np.where(frees, _FREE, codes[slots]).astype(np.uint32),
        slots.astype(np.int32),
        np.zeros(len(order), dtype=np.int64),
    )
    return _with_pauses(everything, draws, pauses, pace)


def _scaled(drawn: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Numbers below 2**32 as numbers below a bound."""
    return drawn * bound >> 32


@dataclass(frozen=True, slots=True)
class _Mix:
    """A row of `MIXES` as tables to look up drawn numbers in.

    Attributes:
        kinds: which kind of block, each as often as its weight says.
        codes: by kind, the code of its allocation without migratetype and flags.
        is_huge: by kind, 1 from order 9 on.
        shares: by kind, the live blocks over the weight, in parts of all weights.
    """

    kinds: np.ndarray
    codes: np.ndarray
    is_huge: np.ndarray
    shares: np.ndarray


@cache
def _mix(family: str, busy: bool) -> _Mix:
    orders, weights, live = (np.array(column) for column in zip(*MIXES[family], strict=True))
    if not busy and family in CROWDED:
        weights = np.where(orders < LARGE, CALM_SHARE * weights, weights)
    return _Mix(
        kinds=np.repeat(np.arange(len(orders)), weights),
        codes=encode(Operation.ALLOCATE, orders).astype(np.int64),
        is_huge=(orders >= 9).astype(np.int64),
        shares=live * (weights.sum() / weights),
    )


_TYPES: Final = np.repeat(
    encode(
        Operation.ALLOCATE,
        0,
        np.array((Migratetype.MOVABLE, Migratetype.UNMOVABLE, Migratetype.RECLAIMABLE)),
    ).astype(np.int64),
    (7, 2, 1),
)
"""Migratetypes, in a code's place, as often as they are drawn."""
_PLAIN_FLAGS: Final = np.repeat(
    np.array(
        [
            int(flags)
            for flags in (
                Flag.ZERO,
                Flag.TOUCHED,
                Flag.TOUCHED | Flag.SLAB,
                Flag.TOUCHED | Flag.ATOMIC,
                Flag.ZERO | Flag.NORETRY,
            )
        ]
    ),
    (11, 2, 2, 1, 1),
)
_FLAGS: Final = np.array(
    (
        _PLAIN_FLAGS,
        np.where(_PLAIN_FLAGS & int(Flag.SLAB), _PLAIN_FLAGS, _PLAIN_FLAGS | int(Flag.COMPOUND)),
    )
)
"""Cleared user pages mostly; slabs, atomic ones and such that may not retry. The second row is for
huge blocks, which are compound."""
_FREE: Final = int(encode(Operation.FREE))
_PAUSES: Final = encode(np.array((Operation.IDLE, Operation.COMPUTE)))


def _with_pauses(operations: Operations, draws: Draws, pauses: int, pace: int = 1) -> Operations:
    """Let time pass here and there: half a microsecond to half a millisecond, times the pace."""
    count = len(operations)
    drawn = (draws.raw(2 * count) >> np.uint64(32)).astype(np.int64).reshape(2, count)
    at = np.flatnonzero(_scaled(drawn[0], pauses) == 0)
    # Log-uniform: a power of two, and a mantissa; the lowest bits say which kind of pause.
    bits = drawn[1][at]
    length = ((1 << (9 + _scaled(bits, 10))) + (bits >> 1 & 511)) * pace
    places = np.ones(count, dtype=np.int64)
    places[at] = 2
    everything = operations.keep(np.repeat(np.arange(count), places))
    # The first of the two that stand there now is the pause before the other.
    pause = at + np.arange(len(at))
    everything.code[pause] = _PAUSES[bits & 1]
    everything.value[pause] = 0
    everything.time_ns[pause] = length
    return everything


def _draw_faults(rng: random.Random, vcpus: int) -> tuple[Fault, ...]:
    """None in every second scenario, else a few; interrupts in most."""
    faults = []
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            faults += draw_counted(rng, (*COUNTED, *INTERRUPTING), 6)
    if rng.random() < 0.7:
        faults += [_timed(rng, vcpus) for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.3:
        at_ns = 1 << rng.randint(6, 19)
        faults += [Fault(AT_STOP, 1, at_ns, cpu) for cpu in range(vcpus)]
    if rng.random() < 0.3:
        # Long after the end all lists are drained: what is still hooked hears of it.
        faults += [Fault("interrupt", LATE_NS, DRAINED, cpu) for cpu in range(vcpus)]
    return tuple(sorted(set(faults)))


def _timed(rng: random.Random, vcpus: int) -> Fault:
    """An interrupt that drains, or one that allocates up to 256 pages; most are CPU 0's."""
    kind = rng.choice(TIMED_KINDS)
    amount = 1 << rng.randrange(9) if kind == "interrupt-allocates" else 0
    cpu = rng.choice((0, rng.randrange(vcpus)))
    return Fault(kind, rng.randint(1_000, 4_000_000), amount, cpu)


def tiny_scenario(seed: int, kernels: Sequence[str]) -> Scenario:
    """A scenario small enough that every way to be late once can be tried.

    Two CPUs allocate and free a few large blocks and some pages, on 16 MiB.

    Args:
        seed: of the order of the operations.
        kernels: the kernels to choose from.
    """
    draws = Draws(seed, 3)
    orders = np.array((9, 0, 10, 9, 3, 9))
    count = len(orders)
    begins = np.arange(count) * 1_000
    frees = begins + 1 + draws.below(4_000, count)
    order = np.argsort(np.concatenate([begins, frees]), kind="stable")
    codes = encode(Operation.ALLOCATE, orders, Migratetype.MOVABLE, int(Flag.TOUCHED))
    slots = np.arange(count)
    cpus = draws.below(2, 2 * count)
    operations = Operations(
        cpus[order].astype(np.int8),
        np.concatenate([codes, np.full(count, encode(Operation.FREE))])[order].astype(np.uint32),
        np.concatenate([slots, slots])[order].astype(np.int32),
        np.zeros(2 * count, dtype=np.int64),
    )
    guest = small_guest(kernels[seed % len(kernels)], "tiny", "fast", 2)
    return Scenario(
        guest, _with_pauses(operations, draws, 2), seed=seed, settle=False, family="tiny"
    )


def full_scenario(seed: int, kernels: Sequence[str]) -> Scenario:
    """A scenario for a strategy's own constants: 1 GiB, freed by one CPU in its largest blocks.

    v9 needs 128 blocks of order 10 on one CPU before it does anything.

    Args:
        seed: of the order in which blocks are freed.
        kernels: the kernels to choose from.
    """
    draws = Draws(seed, 2)
    guest = small_guest(kernels[seed % len(kernels)], "large", "device", 2)
    count = 220
    order = np.argsort(draws.raw(count), kind="stable")
    slots = np.concatenate([np.arange(count), order]).astype(np.int32)
    codes = np.full(2 * count, encode(Operation.FREE), dtype=np.uint32)
    codes[:count] = encode(Operation.ALLOCATE, 10, Migratetype.MOVABLE, int(Flag.TOUCHED))
    zeros = np.zeros(2 * count, dtype=np.int64)
    return Scenario(
        guest=guest,
        operations=Operations(zeros.astype(np.int8), codes, slots, zeros),
        seed=seed,
        family="full constants",
        own_constants=True,
    )
