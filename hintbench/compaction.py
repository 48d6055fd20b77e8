"""Compaction as kcompactd does it: pages move up, so that large blocks come free further down.

A migration scanner goes up from the start of a zone and collects pages that can be moved, a free
scanner goes down from its end and collects where to. Both follow mm/compaction.c of 6.12. When it
runs, and for how many pages, a recorded kernel says (:mod:`hintbench.trace_compaction`); which
pages these are the model decides, whose free lists are its own.

Left out: the skip hints outlive no run, folios of more than a page stay where they are, and what
fast_isolate_freepages() would find early the free scanner finds by walking.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.contexts import Step
from hintbench.core.constants import (
    BUDDY,
    KIND_MASK,
    MOVABLE,
    ORDER_MASK,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
)
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
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.skip: set[int] = set()
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
        free: list[tuple[int, int]] = []
        if scanners.met:
            scanners.reset()
        while wanted > 0:
            sources = scanners.next_sources(min(wanted, COMPACT_CLUSTER_MAX))
            if not sources:
                break
            wanted -= len(sources)
            await self._isolate_free(scanners, free, len(sources))
            await self._migrate(cpu, zone, sources, free)
            if scanners.migrate_pfn >> PAGEBLOCK_ORDER != sources[-1] >> PAGEBLOCK_ORDER:
                # What was freed there is to merge before anybody looks whether it did.
                await self.threads.drain_cpu(cpu, zone, cpu)
        for pfn, order in free:
            await self._free(cpu, zone, pfn, order)
        if last:
            scanners.skip.clear()
        if drain_all:
            for other in self.guest.cpus:
                await self.threads.drain_cpu(cpu, zone, other)

    async def _isolate_free(
        self, scanners: Scanners, free: list[tuple[int, int]], wanted: int
    ) -> None:
        """Fill the list of free pages; whole blocks, each pageblock under one lock hold."""
        zone: Any = scanners.zone
        missing = wanted - sum(1 << order for _, order in free)
        for first, end in scanners.targets():
            if missing <= 0:
                return
            await zone.lock.acquire()
            found = isolate_free_blocks(zone, first, end, missing)
            zone.lock.release()
            await Step()
            free += found
            missing -= sum(1 << order for _, order in found)
            if missing <= 0:
                return

    async def _migrate(
        self, cpu: int, zone: Zone, sources: Sequence[int], free: list[tuple[int, int]]
    ) -> None:
        """migrate_pages(): copy, and free the source at once."""
        slot_of = self._slots_of(sources)
        for source in sources:
            if not free:
                return
            destination = _take_page(free)
            await self._prepare(cpu, destination)
            self.guest.spend(MIGRATE_PAGE_NS + self.simulation.backing.populate(destination, 0))
            await Step()
            if not move_page(self.simulation, source, destination, slot_of.get(source, -1)):
                free.append((destination, 0))
                continue
            self.moved_pages += 1
            await self._free(cpu, zone, source, 0)

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
        """__free_pages() by kcompactd; what no per-CPU list takes goes there in pieces."""
        piece = min(order, PAGE_ALLOC_COSTLY_ORDER)
        point: Any = self.guest.hooks.page_freeing
        for head in range(pfn, pfn + (1 << order), 1 << piece):
            if _concerns(point, head, piece):
                with self.threads.scheduler.as_hook("page_freeing"):
                    waiting = point.function(self.guest, cpu, head, piece)
                    if waiting is not None:
                        await waiting
            pcp = self.simulation.vcpus[cpu].pcps[zone.index]
            count = free_to_pcp(self.simulation, pcp, head, piece)
            if count > 0:
                await self.threads.drain_pages(cpu, pcp, count)


def _concerns(point: Any, pfn: int, order: int) -> bool:
    """Whether a hook wants to hear of a block."""
    if point is None or order < point.min_order:
        return False
    return point.flags is None or bool(point.flags.any(pfn, order))


def _take_page(free: list[tuple[int, int]]) -> int:
    """compaction_alloc(): the first page of the smallest block, which is split for it."""
    at = min(range(len(free)), key=lambda index: free[index][1])
    pfn, order = free.pop(at)
    while order > 0:
        order -= 1
        free.append((pfn + (1 << order), order))
    return pfn
