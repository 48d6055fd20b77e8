"""The core beside the reference where random operations rarely come, worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any

import pytest

from hintbench import operations
from hintbench.core.constants import IN_USE, NEVER
from hintbench.core.freeing import run_drain
from hintbench.core.hooks import HookPoint
from hintbench.core.locks import LockTimeline
from hintbench.core.machine import step_vcpu
from hintbench.core.vcpu import Drain
from hintbench.guest.validation import validate
from reference.guest import Request
from reference.lists import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE

from .driver import Bench, Setup, scaled, zone_config
from .player import play
from .setups import MIB, both_kernels, setup

DRAIN = 7
"""Vcpu.phase: the drain is begun and waits for the zone lock."""


@pytest.mark.parametrize("counts", [(5, 5, 5), (6, 0, 1), (2, 7, 0), (1, 1, 9), (0, 3, 4)])
def test_5_0_drains_round_robin(counts: tuple[int, int, int]) -> None:
    """free_pcppages_bulk() of 5.0 takes more from a list the more empty ones it met."""
    zone = zone_config("DMA32", 0, 6 * MIB, marks=(0, 0, 0))
    types = {number: number % 3 for number in range(3)}
    bench = Bench(Setup((zone,), "5.0", types=types, pcp=(1, 1000, 1000)))
    slots: list[list[int]] = []
    for kind, count in enumerate(counts):
        for _ in range(count):
            bench.allocate(0, Request(0, kind))
        slots.append(list(bench.slots)[len(bench.slots) - count :])
    pcp, other = bench.simulation.vcpus[0].pcps[0], bench.model.pcps[0][0]
    assert pcp.count == 0
    for slot in [slot for row in slots for slot in row]:
        bench.free(0, slot)
    drain = Drain()
    for count in (4, 3, 1, 5):
        other.drain(min(count, other.count))
        with pcp.zone.lock:
            drain.begin(pcp, count, 0)
            run_drain(bench.simulation, drain)
        bench.compare()


def set_aside(bench: Bench, number: int) -> None:
    """A pageblock becomes HIGHATOMIC while its pages are elsewhere; what is free stays."""
    bench.machine.pages.pageblock_type[number] = HIGHATOMIC
    bench.model.zones[0].lists.set_pageblock_types(number << 9, 0, HIGHATOMIC)


def test_5_0_drains_a_page_to_the_type_that_its_pageblock_had_when_it_was_freed() -> None:
    """set_pcppage_migratetype() and get_pcppage_migratetype(), with both pageblocks changing."""
    zone = zone_config("DMA32", 0, 6 * MIB, marks=(0, 0, 0))
    bench = Bench(Setup((zone,), "5.0", pcp=(1, 40, 40)))
    for _ in range(70):
        bench.allocate(0, Request(0, MOVABLE))
    first, *others = list(bench.slots)
    number = bench.slots[first] >> 9
    bench.free(0, first)
    set_aside(bench, number)
    for slot in others[:60]:
        bench.free(0, slot)
        bench.compare()
    assert any(kind == HIGHATOMIC for _, kind in bench.model.zones[0].lists.all_lists())
    assert bench.zones[0].recorded_highatomic


def test_5_0_steals_no_pageblock_of_the_reserve() -> None:
    """steal_suitable_fallback(): single_page where is_migrate_highatomic(old_block_type)."""
    zone = zone_config("DMA32", 0, 4 * MIB, marks=(0, 0, 0))
    types = dict.fromkeys(range(2), UNMOVABLE)
    bench = Bench(Setup((zone,), "5.0", types=types, pcp=(1, 6, 6)))
    for number in types:
        set_aside(bench, number)
    for _ in range(3):
        bench.allocate(0, Request(3, MOVABLE))
        bench.compare()
    assert list(bench.machine.pages.pageblock_type[:2]) == [HIGHATOMIC] * 2


@both_kernels
def test_6_12_frees_order_10_by_pageblocks(kernel: str) -> None:
    """Should they have got different types in the meantime, each goes by its own."""
    bench = Bench(Setup((zone_config("DMA32", 0, 8 * MIB, marks=(0, 0, 0)),), kernel))
    for _ in range(2):
        bench.allocate(0, Request(10, MOVABLE))
    for number, kind in enumerate((MOVABLE, UNMOVABLE, RECLAIMABLE, MOVABLE)):
        bench.machine.pages.pageblock_type[number] = kind
        bench.model.zones[0].lists.set_pageblock_types(number << 9, 0, kind)
    for slot in list(bench.slots):
        bench.free(0, slot)
        bench.compare()


PAIRS = [
    (MOVABLE, UNMOVABLE),
    (MOVABLE, RECLAIMABLE),
    (UNMOVABLE, MOVABLE),
    (RECLAIMABLE, MOVABLE),
    (RECLAIMABLE, UNMOVABLE),
]


@both_kernels
@pytest.mark.parametrize("largest", [3, 4, 5])
@pytest.mark.parametrize(("wanted", "kind"), PAIRS)
def test_nothing_but_small_blocks_of_another_type(
    wanted: int, kind: int, largest: int, kernel: str
) -> None:
    """Who may claim a pageblock for a small block, and which block is the one."""
    zone = zone_config("DMA32", 0, 8 * MIB, marks=(0, 0, 0))
    bench = Bench(Setup((zone,), kernel, types=dict.fromkeys(range(4), kind), pcp=(1, 6, 6)))
    while bench.failures == 0:
        bench.allocate(0, Request(largest, kind, may_block=False))
    for slot in list(bench.slots)[::2]:
        bench.free(0, slot)
    for order in (0, 0, 0, 1, 2, 0):
        bench.allocate(0, Request(order, kind, may_block=False))
    for order in (0, 2, 0, 1, 0) * 20:
        bench.allocate(0, Request(order, wanted, may_block=False))
        bench.compare()


def test_a_bulk_that_had_to_steal_claims_no_more() -> None:
    """__rmqueue() of 6.12 remembers over one lock hold; each failed claim would boost again."""
    zone = zone_config("DMA32", 0, 16 * MIB, marks=(0, 0, 4000))
    bench = Bench(Setup((zone,), pcp=(12, 48, 48)))
    while bench.failures == 0:
        bench.allocate(0, Request(3, MOVABLE, may_block=False))
    for slot in list(bench.slots)[::8]:
        bench.free(0, slot)
    bench.kswapd()
    bench.allocate(0, Request(0, UNMOVABLE, may_block=False))
    assert bench.simulation.vcpus[0].pcps[0].count > 1
    assert 0 < bench.zones[0].watermark_boost < 6000
    bench.compare()


@both_kernels
@pytest.mark.parametrize("alike", [254, 255, 256, 257])
def test_half_of_a_pageblock_must_be_free_or_alike(kernel: str, alike: int) -> None:
    """One pageblock of 4 free and so many alike pages; the rest belongs to the other kind."""
    zone = zone_config("DMA32", 0, 2 * MIB, marks=(0, 0, 0))
    # Lists that are filled page by page.
    bench = Bench(Setup((zone,), kernel, types={0: MOVABLE}, pcp=(1, 1, 1)))
    for number in range(508):
        kind = UNMOVABLE if number < alike - 4 else MOVABLE
        bench.allocate(0, Request(0, MOVABLE, may_block=False))
        if kind == UNMOVABLE:
            # As after a steal: it lies in a pageblock of another type.
            slot, pfn = bench.slots.popitem()
            bench.model.zones[0].lists.mark_freed(pfn)
            bench.machine.pages.state[pfn] = IN_USE
            bench.slots[slot] = pfn
    bench.compare()
    bench.allocate(0, Request(2, UNMOVABLE, may_block=False))
    bench.compare()
    expected = UNMOVABLE if alike >= 256 else MOVABLE
    assert bench.machine.pages.pageblock_type[0] == expected


def test_5_0_keeps_nothing_on_the_lists_of_a_small_zone() -> None:
    """zone_batchsize() is 0 below 32 MiB, so pcp->high is 0 and every page is drained."""
    bench = Bench(Setup((zone_config("Normal", 0, 16 * MIB),), "5.0"))
    bench.allocate(0, Request(0, MOVABLE))
    bench.free(0, next(iter(bench.slots)))
    assert bench.simulation.vcpus[0].pcps[0].count == 0
    bench.compare()


def test_kswapd_leaves_the_zone_marked_as_below_high() -> None:
    bench = Bench(Setup((zone_config("Normal", 0, 8 * MIB, marks=(10, 20, 1000)),)))
    while not bench.zones[0].below_high:
        bench.allocate(0, Request(4, MOVABLE))
    for slot in list(bench.slots):
        bench.free(0, slot)
    bench.kswapd()
    assert bench.zones[0].below_high
    bench.compare()


@pytest.mark.parametrize("lower", ["DMA", "DMA32"])
def test_fragmentation_is_avoided_on_the_own_node_only(lower: str) -> None:
    """A remote pageblock is not worth it; a node without ZONE_DMA32 does not even try."""
    zones = (
        zone_config(lower, 0, 4 * MIB, marks=(0, 0, 0)),
        zone_config("Normal", 4096, 4 * MIB, marks=(0, 0, 0)),
        zone_config("Normal", 8192, 8 * MIB, node=1, marks=(0, 0, 0)),
    )
    bench = Bench(Setup(zones, pcp=(1, 4, 4)))
    for kind in (MOVABLE, UNMOVABLE, RECLAIMABLE):
        for _ in range(600):
            bench.allocate(0, Request(0, kind, may_block=False))
            bench.compare()


def test_atomic_single_pages_do_not_heed_the_boost() -> None:
    zone = zone_config("Normal", 0, 16 * MIB, marks=(64, 80, 400))
    bench = Bench(Setup((zone,), pcp=(1, 4, 4)))
    while bench.failures == 0:
        bench.allocate(0, Request(3, MOVABLE, may_block=False))
    for slot in list(bench.slots)[::4]:
        bench.free(0, slot)
    # Only movable pageblocks with holes are left: whoever wants another type boosts.
    bench.allocate(0, Request(0, UNMOVABLE, may_block=False))
    assert bench.zones[0].watermark_boost >= 512
    bench.compare()
    while bench.failures == 1:
        bench.allocate(0, Request(0, MOVABLE, atomic=True, may_block=False))
        bench.compare()
    assert bench.zones[0].free_pages < 64


def test_a_reserve_alone_is_not_memory_to_wait_for() -> None:
    """Pages of HIGHATOMIC pageblocks do not count, or direct reclaim would never end."""
    zone = zone_config("Normal", 0, 4 * MIB, marks=(10, 20, 30))
    bench = Bench(Setup((zone,), types={1: HIGHATOMIC}, pcp=(1, 4, 4)))
    while bench.failures == 0:
        bench.allocate(0, Request(0, MOVABLE))
        bench.compare()
    assert bench.zones[0].free_pages == 512 + 10
    assert not bench.zones[0].watermark_ok(10)


# Operations that a hook suspends in the middle.


class Waiter:
    """Hooks that wait now and then, for a lock that nobody has, and change nothing."""

    def __init__(self, bench: Bench, rng: random.Random) -> None:
        self.rng = rng
        self.waits = 0
        clock = bench.machine.clock
        self.own_lock = LockTimeline(clock, "own", bench.machine.irqs_off_until_ns)

    def anywhere(self, *where: object) -> Coroutine[Any, Any, None] | None:
        """page_freeing, page_allocated, free_completed."""
        return self._wait() if self.rng.random() < 0.5 else None

    def merged(
        self, guest: object, cpu: int, zone: Any, pfn: int, order: int
    ) -> Coroutine[Any, Any, None] | None:
        """block_merged, which may drop the zone lock."""
        return self._drop(zone) if self.rng.random() < 0.5 else None

    async def _wait(self) -> None:
        self.waits += 1
        async with self.own_lock:
            pass

    async def _drop(self, zone: Any) -> None:
        self.waits += 1
        zone.lock.release()
        await zone.lock.acquire()


@both_kernels
@pytest.mark.parametrize("name", ["four zones", "all types", "small lists"])
@pytest.mark.parametrize(
    "hook", ["page_freeing", "page_allocated", "free_completed", "block_merged"]
)
def test_hooks_that_wait_change_nothing(hook: str, name: str, kernel: str) -> None:
    bench = Bench(setup(name, kernel))
    waiter = Waiter(bench, random.Random(9))
    function = waiter.merged if hook == "block_merged" else waiter.anywhere
    setattr(bench.guest.hooks, hook, HookPoint(hook, function))
    play(bench, seed=4, steps=scaled(500))
    assert waiter.waits > 0


@pytest.mark.parametrize(("kernel", "order"), [("5.0", 0), ("5.0", 5), ("6.12", 5), ("6.12", 8)])
def test_two_merges_of_one_zone_may_wait_at_once(kernel: str, order: int) -> None:
    """Each CPU keeps what its own merge has come to while the zone lock is dropped."""
    zone = zone_config("DMA32", 0, 16 * MIB, marks=(0, 0, 0))
    bench = Bench(Setup((zone,), kernel, vcpus=2, pcp=(1, 1, 1)))
    flags = bench.guest.flags("busy", order=0)
    busy_pfn = 4095

    async def wait(zone: Any, cpu: int) -> None:
        zone.lock.release()
        if cpu == 0:
            await flags.wait_clear(busy_pfn)
        await zone.lock.acquire()

    def merged(guest: object, cpu: int, zone: Any, pfn: int, order: int) -> object:
        return wait(zone, cpu)

    pfns = [bench.allocate(0, Request(order, MOVABLE)) for _ in range(1024 >> order)]
    slot_of = {pfn: slot for slot, pfn in bench.slots.items()}
    # Far apart, so that neither merges with the other's.
    first, second = slot_of[pfns[0]], slot_of[pfns[512 >> order]]
    for pfn in (pfns[1], pfns[(512 >> order) + 1]):
        bench.free(0, slot_of[pfn])
    assert bench.simulation.vcpus[0].pcps[0].count == 0
    bench.guest.hooks.block_merged = HookPoint("block_merged", merged)
    flags.set(busy_pfn)
    bench.feeds[0].blocks.append(operations.free(first))
    while bench.simulation.clock_of(0) < NEVER:
        step_vcpu(bench.simulation, 0)
    bench.free(1, second)
    flags.clear(busy_pfn)
    while bench.simulation.vcpus[0].phase != 0:
        step_vcpu(bench.simulation, 0)
    bench.model.free(0, bench.slots.pop(first))
    bench.compare()
    assert validate(bench.machine) == []


@both_kernels
@pytest.mark.parametrize("taken", ["all", "some"])
def test_lists_may_be_drained_before_the_drain_that_waits_for_the_lock(
    taken: str, kernel: str
) -> None:
    """Direct reclaim on another CPU comes first: only what is left is drained."""
    zone = zone_config("DMA32", 0, 16 * MIB, marks=(0, 0, 0))
    pcp_limits = (4, 24, 24)
    bench = Bench(Setup((zone,), kernel, vcpus=2, pcp=pcp_limits))
    for _ in range(40):
        bench.allocate(0, Request(0, MOVABLE))
    vcpu, pcp = bench.simulation.vcpus[0], bench.simulation.vcpus[0].pcps[0]
    while vcpu.phase != DRAIN:
        if vcpu.phase == 0:
            bench.feeds[0].blocks.append(operations.free(bench.slots.popitem()[0]))
        step_vcpu(bench.simulation, 0)
    assert pcp.count
    drain = Drain()
    with zone_lock(bench):
        drain.begin(pcp, pcp.count if taken == "all" else pcp.count - 2, 0)
        assert run_drain(bench.simulation, drain)
    while vcpu.phase != 0:
        step_vcpu(bench.simulation, 0)
    assert pcp.count == 0
    assert validate(bench.machine) == []


def zone_lock(bench: Bench) -> Any:
    """The lock of the first zone, as another CPU takes it."""
    bench.machine.clock.context = bench.machine.clock.cpu = 1
    return bench.zones[0].lock
