"""Compaction as kcompactd does it: pages move up, so that large blocks come free further down.

A migration scanner goes up from the start of a zone and collects pages that can be moved, a free
scanner goes down from its end and collects where to. Both follow mm/compaction.c of 6.12. When it
runs, and for how many pages, a recorded kernel says (:mod:`hintbench.traces.compaction`); which
pages these are the model decides, whose free lists are its own.

Left out: the skip hints outlive no run, and folios of more than a page stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.core.constants import (
    BUDDY,
    KIND_MASK,
    MOVABLE,
    ORDER_MASK,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    TRANSIT,
)
from hintbench.core.contexts import Step
from hintbench.core.hooks import Block
from hintbench.core.migration import free_to_pcp, isolate_free_blocks, movable_pages, move_page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hintbench.core.zone import Zone
    from hintbench.kernel_threads import KernelThreads

COMPACT_CLUSTER_MAX: Final = 32
"""Pages that are isolated and moved together."""
MIGRATE_PAGE_NS: Final = 9_000
"""Moving one page: compaction takes 2.3 to 6.6 ms to make a huge page (Aaron Lu's measurement)."""


@dataclass(frozen=True, slots=True)
class CompactionStep:
    """What kcompactd does at one time.

    Attributes:
        at_ns: When [virtual ns].
        cpu: Where it runs.
        pfn: A page of the zone.
        pages: How many pages it moves.
        last: Whether its run ends then.
        drain_all: Whether it then drains the per-CPU lists of all CPUs.
    """

    at_ns: int
    cpu: int
    pfn: int
    pages: int
    last: bool = False
    drain_all: bool = False


class Scanners:
    """Where the two scanners of a zone stand between runs.

    Attributes:
        migrate_pfn: The migration scanner's next page.
        free_pfn: Start of the free scanner's pageblock.
        skip: Pageblocks that the fast search has looked at in this run.
        isolated: Free blocks set aside and not used yet, (pfn, order) each.
        search_order: Where the next fast search for free blocks begins.
        failures: Fast searches since the last that found something.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.skip: set[int] = set()
        self.isolated: list[tuple[int, int]] = []
        self.search_order = PAGEBLOCK_ORDER - 1
        self.failures = 0
        self.reset()

    def reset(self) -> None:
        """reset_cached_positions()."""
        self.migrate_pfn: int = self.zone.start_pfn
        self.free_pfn: int = (self.zone.end_pfn - 1) & ~(PAGEBLOCK_PAGES - 1)
        self.skip.clear()

    @property
    def met(self) -> bool:
        """compact_scanners_met()."""
        return self.migrate_pfn >> PAGEBLOCK_ORDER >= self.free_pfn >> PAGEBLOCK_ORDER

    def block(self, pfn: int) -> tuple[int, int]:
        """The part of a page's pageblock that lies in the zone: first page, one past the last."""
        first = pfn & ~(PAGEBLOCK_PAGES - 1)
        return max(first, self.zone.start_pfn), min(first + PAGEBLOCK_PAGES, self.zone.end_pfn)

    def is_free(self, pfn: int) -> bool:
        """Whether a pageblock is one free block, which is neither source nor target."""
        state = self.zone.pages.state[pfn & ~(PAGEBLOCK_PAGES - 1)]
        return state & KIND_MASK == BUDDY and state & ORDER_MASK >= PAGEBLOCK_ORDER

    def next_sources(self, most: int) -> list[int]:
        """isolate_migratepages(): pages of the next pageblock that has some."""
        pages = self.zone.pages
        if self.migrate_pfn & (PAGEBLOCK_PAGES - 1) == 0 or self.migrate_pfn == self.zone.start_pfn:
            self._search_fast()
        while not self.met:
            first, end = self.block(self.migrate_pfn)
            if not self.is_free(first):
                found: list[int] = movable_pages(pages, max(first, self.migrate_pfn), end, most)
                if found:
                    more = movable_pages(pages, found[-1] + 1, end, 1)
                    self.migrate_pfn = found[-1] + 1 if more else end
                    return found
            self.migrate_pfn = end
        return []

    def _search_fast(self) -> None:
        """fast_find_migrateblock(): a pageblock that is free in part, in the lower half."""
        zone = self.zone
        distance = self.free_pfn - self.migrate_pfn
        distance >>= 1 if self.migrate_pfn == zone.start_pfn else 3
        high_pfn = (self.migrate_pfn + distance) & ~(PAGEBLOCK_PAGES - 1)
        for order in range(PAGEBLOCK_ORDER - 1, PAGE_ALLOC_COSTLY_ORDER, -1):
            for pfn in zone.blocks_of(order, MOVABLE):
                if pfn >= high_pfn or pfn < self.migrate_pfn or pfn >> PAGEBLOCK_ORDER in self.skip:
                    continue
                self.skip.add(pfn >> PAGEBLOCK_ORDER)
                self.migrate_pfn = max(pfn & ~(PAGEBLOCK_PAGES - 1), zone.start_pfn)
                return

    def missing(self, wanted: int) -> int:
        """How many pages there are too few of for `wanted` sources."""
        return wanted - sum(1 << order for _, order in self.isolated)

    def search_free(self, wanted: int) -> int:
        """fast_isolate_freepages(): a free block out of the top quarter between the scanners.

        The zone's lock must be held; the kernel lets go of it between two orders.

        Returns:
            The block's pfn, -1 when the search found none.
        """
        zone = self.zone
        at_top = self.free_pfn >= (zone.end_pfn - 1) & ~(PAGEBLOCK_PAGES - 1)
        limit = PAGEBLOCK_PAGES >> 1 if at_top else self._scan_limit() >> 1 or 1
        distance = self.free_pfn - self.migrate_pfn
        low_pfn = self.free_pfn - (distance >> 2) & ~(PAGEBLOCK_PAGES - 1)
        min_pfn = self.free_pfn - (distance >> 1) & ~(PAGEBLOCK_PAGES - 1)
        # Round robin, from the order of the last success on.
        start = self.search_order
        for step in range(PAGEBLOCK_ORDER):
            order = (start - step) % PAGEBLOCK_ORDER
            blocks = zone.blocks_of(order, MOVABLE)[: -limit - 1 : -1]
            found = next((pfn for pfn in blocks if pfn >= low_pfn), -1)
            if found >= 0:
                self.failures = 0
                self.search_order = order
            else:
                found = max((pfn for pfn in blocks if pfn >= min_pfn), default=-1)
            if found < 0:
                if len(blocks) >= limit:
                    zone.rotate_to_front(Block(blocks[-1], order, zone))
                    limit = max(1, limit >> 1)
                continue
            zone.rotate_to_front(Block(found, order, zone))
            taken: list[tuple[int, int]] = isolate_free_blocks(zone, found, found + 1, 1)
            if not taken:
                break
            self.isolated += taken
            if self.missing(wanted) > 0:
                # fast_isolate_around()
                first, end = self.block(found)
                self.isolated += isolate_free_blocks(zone, first, end, self.missing(wanted))
            return found
        self.search_order = (start - 1) % PAGEBLOCK_ORDER
        self.failures += 1
        return -1

    def _scan_limit(self) -> int:
        """freelist_scan_limit()."""
        return (COMPACT_CLUSTER_MAX >> min(self.failures, 63)) + 1

    def targets(self) -> Iterator[tuple[int, int]]:
        """isolate_freepages(): pageblocks downwards, of which free pages may be taken."""
        while not self.met:
            first, end = self.block(self.free_pfn)
            # suitable_migration_target()
            if (
                not self.is_free(first)
                and self.zone.pages.pageblock_type[first >> PAGEBLOCK_ORDER] == MOVABLE
            ):
                yield first, end
            self.free_pfn -= PAGEBLOCK_PAGES


class Compaction:
    """kcompactd of a guest.

    Args:
        threads: The kernel's other work, whose drains it uses.
    """

    def __init__(self, threads: KernelThreads) -> None:
        self.threads = threads
        self.simulation = threads.simulation
        self.guest = threads.guest
        self.scanners = {zone: Scanners(zone) for zone in threads.simulation.zones}
        self.moved_pages = 0

    async def run(self, cpu: int, zone: Zone, wanted: int, *, last: bool, drain_all: bool) -> None:
        """compact_zone(): move so many pages, a cluster at a time.

        Args:
            cpu: Where kcompactd runs.
            zone: Which zone.
            wanted: Pages to move; fewer when the scanners meet.
            last: Whether the run ends with these.
            drain_all: Whether the per-CPU lists of all CPUs are drained behind it, as after a run
                that went through the whole zone.
        """
        scanners = self.scanners[zone]
        if scanners.met:
            scanners.reset()
        while wanted > 0:
            sources = scanners.next_sources(min(wanted, COMPACT_CLUSTER_MAX))
            if not sources:
                break
            wanted -= len(sources)
            await self._migrate(cpu, scanners, sources)
            if scanners.migrate_pfn >> PAGEBLOCK_ORDER != sources[-1] >> PAGEBLOCK_ORDER:
                # What was freed there is to merge before anybody looks whether it did.
                await self.threads.drain_cpu(cpu, zone, cpu)
        if last:
            scanners.skip.clear()
            scanners.search_order = PAGEBLOCK_ORDER - 1
            await self._release(cpu, scanners)
        if drain_all:
            for other in self.guest.cpus:
                await self.threads.drain_cpu(cpu, zone, other)

    async def _release(self, cpu: int, scanners: Scanners) -> None:
        """release_free_list(): what was set aside and not used goes back, small blocks first."""
        left = sorted(scanners.isolated, key=lambda block: block[1])
        scanners.isolated.clear()
        for pfn, order in left:
            await self._free(cpu, scanners.zone, pfn, order)

    async def _isolate_free(self, scanners: Scanners, wanted: int) -> None:
        """isolate_freepages(): from the free lists, else each pageblock under one lock hold."""
        zone: Any = scanners.zone
        await zone.lock.acquire()
        found = scanners.search_free(wanted)
        zone.lock.release()
        await Step()
        if found >= 0:
            return
        for first, end in scanners.targets():
            await zone.lock.acquire()
            scanners.isolated += isolate_free_blocks(zone, first, end, scanners.missing(wanted))
            zone.lock.release()
            await Step()
            if scanners.missing(wanted) <= 0:
                return

    async def _migrate(self, cpu: int, scanners: Scanners, sources: Sequence[int]) -> None:
        """migrate_pages(): copy, and free the source at once."""
        slot_of = self._slots_of(sources)
        free = scanners.isolated
        for done, source in enumerate(sources):
            if not free:
                await self._isolate_free(scanners, len(sources) - done)
            if not free:
                return
            destination = _take_page(self.simulation.pages, free)
            await self._prepare(cpu, destination)
            self.guest.spend(MIGRATE_PAGE_NS + self.simulation.backing.populate(destination, 0))
            await Step()
            if not move_page(self.simulation, source, destination, slot_of.get(source, -1)):
                free.append((destination, 0))
                continue
            self.moved_pages += 1
            await self._free(cpu, scanners.zone, source, 0)

    def _slots_of(self, pfns: Sequence[int]) -> dict[int, int]:
        """The slot of each page that has one."""
        slots = self.simulation.slot_pfns()
        wanted = np.zeros(self.simulation.pages.page_count, dtype=bool)
        wanted[list(pfns)] = True
        found = np.flatnonzero((slots >= 0) & wanted[np.maximum(slots, 0)])
        return {int(slots[slot]): int(slot) for slot in found}

    async def _prepare(self, cpu: int, pfn: int) -> None:
        """post_alloc_hook() of a destination, in compaction_alloc()."""
        point: Any = self.guest.hooks.page_allocated
        if _concerns(point, pfn, 0):
            with self.threads.scheduler.as_hook("page_allocated"):
                waiting = point.function(self.guest, cpu, pfn, 0)
                if waiting is not None:
                    await waiting
        for flags in self.guest.hooks.forget_when_allocated:
            flags.clear(pfn)

    async def _free(self, cpu: int, zone: Zone, pfn: int, order: int) -> None:
        """__free_pages() by kcompactd; what no per-CPU list takes goes to the zone."""
        point: Any = self.guest.hooks.page_freeing
        if _concerns(point, pfn, order):
            with self.threads.scheduler.as_hook("page_freeing"):
                waiting = point.function(self.guest, cpu, pfn, order)
                if waiting is not None:
                    await waiting
        if order > PAGE_ALLOC_COSTLY_ORDER:
            lock: Any = zone.lock
            await lock.acquire()
            zone.free(pfn, order)
            lock.release()
            return
        pcp = self.simulation.vcpus[cpu].pcps[zone.index]
        count = free_to_pcp(self.simulation, pcp, pfn, order)
        if count > 0:
            await self.threads.drain_pages(cpu, pcp, count)


def _concerns(point: Any, pfn: int, order: int) -> bool:
    """Whether a hook wants to hear of a block."""
    if point is None or order < point.min_order:
        return False
    return point.flags is None or bool(point.flags.any(pfn, order))


def _take_page(pages: Any, free: list[tuple[int, int]]) -> int:
    """compaction_alloc(): the first page of the smallest block, which is split for it."""
    at = min(range(len(free)), key=lambda index: free[index][1])
    pfn, order = free.pop(at)
    while order > 0:
        order -= 1
        free.append((pfn + (1 << order), order))
        pages.state[pfn + (1 << order)] = TRANSIT | order
    pages.state[pfn] = TRANSIT
    return pfn
