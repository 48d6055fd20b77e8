"""zones: pressure in every zone, fallback from zone to zone, and large frees that mix zones.

"Confine yourself to one zone worth of hints at a time" (Alexander Duyck on patch 2/6 of the series
v9, March 2019): v9 sorts what it captured by the number of the zone and changes the zone lock when
the zone changes. So here drivers hold blocks of orders 9 and 10 in DMA32 (and vCPU 0 in DMA), users
hold as large blocks elsewhere, single pages fill the guest up to `fill_share`: the Normal zone
reaches its low watermark and the rest falls back to DMA32, as far as lowmem_reserve lets it. Then
each vCPU frees its large blocks, one of each zone by turns, and at once the memory is wanted again
in blocks of order 3, which block and retry until they get it. Some allocations are atomic.

It shows what a batch of several zones costs in lock takes, whether blocks come back to their own
zone, and a false OOM: whoever still holds what was freed makes those who need it now wait or fail.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hintbench import (
    LONGEST_NS,
    MOST_OPERATIONS,
    Program,
    Workload,
    WorkloadParameters,
    WorkloadSetting,
)
from hintbench.operations import (
    HUGE_PAGE,
    KERNEL_PAGE,
    ORDER_SHIFT,
    USER_PAGE,
    Flag,
    Migratetype,
    Operation,
    OperationBlock,
    allocate,
    encode,
    free,
    idle,
    touch,
)
from hintbench.tapes import Draws, Shuffle, allocate_coded, free_range, pieces, spans

_PAIR = np.array([10, 9])  # large blocks come in pairs of these orders
_PAIR_PAGES = int((1 << _PAIR).sum())
_DRIVER_BLOCK = Flag.COMPOUND | Flag.NORETRY  # written only later, by a touch
_GROWTH_ORDER = 3  # the largest order for which the allocator never gives up (COSTLY_ORDER)
# Who asks for single pages, and for the blocks of order 3: of every 16 requests one is atomic; of
# the single pages two are the kernel's and one a driver's; the others are users'.
_KERNEL = encode(Operation.ALLOCATE, 0, Migratetype.UNMOVABLE, KERNEL_PAGE)
_USER = encode(Operation.ALLOCATE, 0, Migratetype.MOVABLE, USER_PAGE)
_SINGLES = np.array([_KERNEL | Flag.ATOMIC, _KERNEL, _KERNEL, _KERNEL | Flag.DMA32] + [_USER] * 12)
_ORDER_3 = _GROWTH_ORDER << ORDER_SHIFT | int(Flag.COMPOUND)
_GROWTH = np.array([_KERNEL | Flag.ATOMIC] + [_USER] * 15) | _ORDER_3


class ZonesParameters(WorkloadParameters):
    """Parameters of `Zones`."""

    operations: int = Field(
        default=2_000_000,
        ge=1,
        le=MOST_OPERATIONS,
        description="wanted allocations, frees and touches of all vCPUs; there is at least one"
        " round",
    )
    fill_share: float = Field(
        default=0.85,
        gt=0,
        le=0.97,
        description="share of the guest's memory in use at the peak of a round",
    )
    blocks_share: float = Field(
        default=0.55,
        gt=0,
        le=0.97,
        description="share of the guest's memory in blocks of orders 9 and 10 at that time; the"
        " rest of fill_share are single pages",
    )
    growth_share: float = Field(
        default=0.4,
        ge=0,
        le=0.97,
        description="share of the guest's memory that is wanted again, in order 3, as soon as the"
        " blocks are freed; at most blocks_share",
    )
    dma32_share: float = Field(
        default=0.25,
        ge=0,
        le=0.9,
        description="share of the DMA32 zone that drivers hold in blocks of orders 9 and 10",
    )
    dma_share: float = Field(
        default=0.5,
        ge=0,
        le=0.8,
        description="share of the DMA zone that vCPU 0 holds: blocks, and single pages",
    )
    idle_ns: int = Field(
        default=500_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time between two rounds [virtual ns]",
    )


class Zones(Workload):
    """Pressure in every zone, and large frees that mix zones."""

    name = "zones"
    Parameters = ZonesParameters
    parameters: ZonesParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round fills and empties the guest once."""
        parameters, cpus = self.parameters, setting.vcpus
        if parameters.growth_share > parameters.blocks_share:
            raise self.refusal(
                f"growth_share={parameters.growth_share:g} must be at most"
                f" blocks_share={parameters.blocks_share:g}"
            )
        if parameters.blocks_share > parameters.fill_share:
            raise self.refusal(
                f"blocks_share={parameters.blocks_share:g} must be at most"
                f" fill_share={parameters.fill_share:g}"
            )
        shares = [_Share(setting, parameters, cpu) for cpu in range(cpus)]
        if shares[-1].users == 0:
            needed = int(_PAIR_PAGES * cpus / parameters.blocks_share * 1.5) // 256 + 1
            raise self.refusal(
                f"{setting.describe()} has no blocks of orders 9 and 10 for every vCPU beside the"
                f" drivers': it needs about {needed} MiB, or fewer vCPUs"
            )
        a_round = sum(share.operations for share in shares)
        rounds = parameters.rounds(setting, a_round)
        firsts = np.cumsum([0, *(share.slots for share in shares)])
        tapes = tuple(
            self._tape(setting.seed, cpu, share, int(firsts[cpu]), rounds)
            for cpu, share in enumerate(shares)
        )
        return Program(int(firsts[-1]), tapes, a_round * rounds)

    def _tape(
        self, seed: int, cpu: int, share: "_Share", first: int, rounds: int
    ) -> Iterator[OperationBlock]:
        parameters = self.parameters
        draws = Draws(seed, cpu)
        for number in range(rounds):
            if number:
                yield idle(parameters.idle_ns)
            yield from share.fill(first)
            yield from pieces(free, first + share.in_turn)
            yield from share.grow(first)
            shuffle = Shuffle(max(1, share.growth), draws)
            for start, stop in spans(0, share.growth):
                yield free(first + share.growth_slot + shuffle(np.arange(start, stop)))
            yield from free_range(first + share.dma_slot, first + share.growth_slot)
        yield idle(parameters.final_idle_ns)


class _Share:
    """What one vCPU allocates, and in which slots.

    The slots are, in this order: driver blocks in DMA, driver blocks in DMA32, users' blocks (each
    a pair of orders), single pages in DMA, other single pages, blocks of order 3.
    """

    def __init__(self, setting: WorkloadSetting, parameters: ZonesParameters, cpu: int) -> None:
        pages, cpus = setting.memory_pages, setting.vcpus
        of_dma = int(setting.pages_of("DMA") * parameters.dma_share)
        dma = of_dma if cpu == 0 else 0
        dma32 = int(setting.pages_of("DMA32") * parameters.dma32_share) // cpus
        blocks = int(pages * parameters.blocks_share) // cpus
        self.dma_pairs = dma // _PAIR_PAGES
        self.dma32_pairs = min(dma32, blocks) // _PAIR_PAGES
        self.users = (blocks - self.dma32_pairs * _PAIR_PAGES) // _PAIR_PAGES
        self.dma_singles = dma - self.dma_pairs * _PAIR_PAGES
        # Every vCPU leaves its part of what vCPU 0 takes from DMA.
        singles = int(pages * (parameters.fill_share - parameters.blocks_share)) - of_dma
        self.singles = max(0, singles) // cpus
        self.growth = (int(pages * parameters.growth_share) >> _GROWTH_ORDER) // cpus

        counts = 2 * np.array([self.dma_pairs, self.dma32_pairs, self.users])
        self.drivers = int(counts[0] + counts[1])
        self.dma_slot = int(counts.sum())
        self.single_slot = self.dma_slot + self.dma_singles
        self.growth_slot = self.single_slot + self.singles
        self.slots = self.growth_slot + self.growth
        self.operations = 2 * self.slots + self.drivers
        self.in_turn = _in_turn(counts)

    def fill(self, first: int) -> Iterator[OperationBlock]:
        """Take the large blocks, then single pages up to the peak."""
        orders = np.tile(_PAIR, self.dma_slot // 2)
        zone_flags = np.full(self.dma_slot, int(HUGE_PAGE))
        zone_flags[: self.drivers] = int(_DRIVER_BLOCK | Flag.DMA32)
        zone_flags[: 2 * self.dma_pairs] = int(_DRIVER_BLOCK | Flag.DMA)
        types = np.full(self.dma_slot, int(Migratetype.MOVABLE))
        types[: self.drivers] = int(Migratetype.UNMOVABLE)
        for start, stop in spans(0, self.dma_slot):
            yield allocate(
                first + np.arange(start, stop),
                order=orders[start:stop],
                migratetype=types[start:stop],
                flags=zone_flags[start:stop],
            )
        yield from pieces(touch, first + np.arange(self.drivers))
        for start, stop in spans(first + self.dma_slot, first + self.single_slot):
            yield allocate(
                np.arange(start, stop),
                migratetype=Migratetype.UNMOVABLE,
                flags=KERNEL_PAGE | Flag.DMA,
            )
        for start, stop in spans(first + self.single_slot, first + self.growth_slot):
            yield allocate_coded(_SINGLES, np.arange(start, stop))

    def grow(self, first: int) -> Iterator[OperationBlock]:
        """Want the memory of the large blocks again, in order 3."""
        for start, stop in spans(first + self.growth_slot, first + self.slots):
            yield allocate_coded(_GROWTH, np.arange(start, stop))


def _in_turn(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers 0..sum-1 of several lists laid end to end, spread so that the lists alternate."""
    keys = [(2 * np.arange(count) + 1 << 31) // max(1, int(count)) for count in counts]
    return np.argsort(np.concatenate(keys), kind="stable")
