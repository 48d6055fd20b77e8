"""slab: pages in use whose reference count is 0, in the middle of memory that becomes free.

"A ref count of 0 doesn't mean the page isn't in use" (Alexander Duyck on patch 2/6 of v9,
March 2019, of SLUB): the tails of a compound page have count 0, and a slab's pages may all have.
Every vCPU allocates groups of user pages, a huge page, kernel pages and slabs of orders 0 to 3 by
turns, so that slabs lie between kernel pages of the same migratetype. It frees everything but the
slabs, then most slabs. While it frees, new slabs grow, right out of the blocks that just became
free: whoever has noted such a block and looks again later finds pages of count 0 that are in use.
The last slabs stay for some rounds, alone inside ranges of 4 MiB that are otherwise free.

It shows nothing new to a strategy that believes only the free lists, under the lock. One that
believes reference counts reports memory in use here, and a slab's owner finds its pages gone when
it touches them.
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
    SLAB_PAGE,
    USER_PAGE,
    Migratetype,
    Operation,
    OperationBlock,
    allocate,
    encode,
    free,
    idle,
    touch,
)
from hintbench.tapes import (
    BLOCK_OPERATIONS,
    HUGE_PAGE_ORDER,
    Draws,
    allocate_coded,
    free_range,
    pieces,
    spans,
)

_GROUP = 512  # allocations that repeat: a huge page, user pages, kernel pages and slabs
_SLABS = _GROUP // 8
_OTHERS = _GROUP - _SLABS
_FREED_AT_ONCE = 8192  # pages that are freed between two moments in which slabs grow
_GROWTH = 64  # slabs that grow then
_MOST_SHARE = 0.9


def _slab_orders(count: int) -> npt.NDArray[np.int64]:
    """Orders 0, 1, 0, 2, 0, 1, 0, 3 and again: half of the slabs are single pages."""
    return np.resize(np.array([0, 1, 0, 2, 0, 1, 0, 3]), count)


def _group_codes() -> npt.NDArray[np.uint32]:
    """The allocations of a group, in order."""
    place = np.arange(_GROUP) % 8
    codes = np.full(_GROUP, encode(Operation.ALLOCATE, 0, Migratetype.MOVABLE, USER_PAGE))
    codes[0] = encode(Operation.ALLOCATE, HUGE_PAGE_ORDER, Migratetype.MOVABLE, HUGE_PAGE)
    codes[np.isin(place, (1, 2, 3))] = encode(
        Operation.ALLOCATE, 0, Migratetype.UNMOVABLE, KERNEL_PAGE
    )
    codes[place == 4] = encode(
        Operation.ALLOCATE, _slab_orders(_SLABS), Migratetype.UNMOVABLE, SLAB_PAGE
    )
    return codes


class SlabParameters(WorkloadParameters):
    """Parameters of `Slab`."""

    operations: int = Field(
        default=2_000_000,
        ge=1,
        le=MOST_OPERATIONS,
        description="wanted allocations, frees and touches of all vCPUs; there is at least one"
        " round",
    )
    share: float = Field(
        default=0.5,
        gt=0,
        le=_MOST_SHARE,
        description="share of the guest's memory that all vCPUs take together in a round",
    )
    survival: int = Field(
        default=1,
        ge=0,
        le=100,
        description="rounds that one slab in 64 outlives its neighbours",
    )
    idle_ns: int = Field(
        default=500_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time in each round while only slabs are left [virtual ns]",
    )


class Slab(Workload):
    """Slabs, in use with a reference count of 0, between pages that are freed."""

    name = "slab"
    Parameters = SlabParameters
    parameters: SlabParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round fills and empties the share once."""
        parameters, cpus = self.parameters, setting.vcpus
        orders = _group_codes() >> 4 & 15
        a_group = int((1 << orders.astype(np.int64)).sum())
        groups = int(setting.memory_pages * parameters.share) // cpus // a_group
        if groups == 0:
            needed = int(a_group * cpus / parameters.share) // 256 + 1
            raise self.refusal(
                f"{setting.describe()} is too small for share={parameters.share:g}: it needs"
                f" {needed} MiB, or fewer vCPUs"
            )
        layout = _Layout(groups, parameters.survival)
        # Touches: one for each slab that is left, of this round and of those that it outlives.
        a_round = 2 * (groups * _GROUP + layout.growth) + groups
        rounds = parameters.rounds(setting, a_round * cpus)
        older = sum(min(number, parameters.survival) for number in range(rounds)) * groups
        tapes = tuple(self._tape(setting, cpu, layout, rounds) for cpu in range(cpus))
        return Program(layout.slots * cpus, tapes, cpus * (a_round * rounds + older))

    def _tape(
        self, setting: WorkloadSetting, cpu: int, layout: "_Layout", rounds: int
    ) -> Iterator[OperationBlock]:
        parameters = self.parameters
        draws = Draws(setting.seed, cpu)
        first = cpu * layout.slots
        left: list[npt.NDArray[np.int64]] = []
        for number in range(rounds):
            yield from layout.fill(first, number)
            yield from layout.empty(first)
            slabs = first + layout.slab_slot(number) + np.arange(layout.slabs)
            stays = np.zeros((layout.groups, _SLABS), dtype=np.bool_)
            stays[np.arange(layout.groups), draws.below(_SLABS, layout.groups)] = True
            yield from pieces(free, slabs[~stays.ravel()])
            left.append(slabs[stays.ravel()])
            for slots in left:
                yield from pieces(touch, slots)
            yield idle(parameters.idle_ns)
            yield from free_range(first + layout.growth_slot, first + layout.slots)
            if len(left) > parameters.survival:
                yield from pieces(free, left.pop(0))
        for slots in left:
            yield from pieces(free, slots)
        yield idle(parameters.final_idle_ns)


class _Layout:
    """How the slots of one vCPU are laid out: other pages, slabs by round, slabs that grow."""

    def __init__(self, groups: int, survival: int) -> None:
        self.groups = groups
        self.others = groups * _OTHERS
        self.slabs = groups * _SLABS
        self.growth = -(-self.others // _FREED_AT_ONCE) * _GROWTH
        self._generations = survival + 1
        self.growth_slot = self.others + self._generations * self.slabs
        self.slots = self.growth_slot + self.growth
        self._codes = _group_codes()
        self._is_slab = np.arange(_GROUP) % 8 == 4

    def slab_slot(self, number: int) -> int:
        """The first slot of a round's slabs."""
        return self.others + number % self._generations * self.slabs

    def fill(self, first: int, number: int) -> Iterator[OperationBlock]:
        """Allocate all groups."""
        for start, stop in spans(0, self.groups, BLOCK_OPERATIONS // _GROUP):
            count = stop - start
            slots = np.empty((count, _GROUP), dtype=np.int32)
            others = np.arange(start * _OTHERS, stop * _OTHERS).reshape(count, _OTHERS)
            slabs = np.arange(start * _SLABS, stop * _SLABS).reshape(count, _SLABS)
            slots[:, ~self._is_slab] = first + others
            slots[:, self._is_slab] = first + self.slab_slot(number) + slabs
            yield allocate_coded(self._codes, slots.ravel())

    def empty(self, first: int) -> Iterator[OperationBlock]:
        """Free all but the slabs, and let slabs grow out of what became free."""
        slot = first + self.growth_slot
        for start, stop in spans(first, first + self.others, _FREED_AT_ONCE):
            yield free(np.arange(start, stop))
            yield allocate(
                np.arange(slot, slot + _GROWTH),
                order=_slab_orders(_GROWTH),
                migratetype=Migratetype.UNMOVABLE,
                flags=SLAB_PAGE,
            )
            slot += _GROWTH
