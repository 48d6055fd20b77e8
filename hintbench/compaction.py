"""Compaction as kcompactd does it: pages move up, so that large blocks come free further down.

A migration scanner goes up from the start of a zone and collects pages that can be moved, a free
scanner goes down from its end and collects where to. Both follow mm/compaction.c of 6.12. When it
runs, and for how many pages, a recorded kernel says (:mod:`hintbench.traces.compaction`); which
pages these are the model decides, whose free lists are its own.

Left out: the free scanner's own skip hints, and folios of more than a page stay where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.compaction_scanners import COMPACT_CLUSTER_MAX, Scanners
from hintbench.core.constants import (
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    TRANSIT,
)
from hintbench.core.contexts import Step
from hintbench.core.migration import free_to_pcp, isolate_free_blocks, move_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hintbench.core.zone import Zone
    from hintbench.kernel_threads import KernelThreads

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
        proactive: Whether it compacts because the zone is fragmented (compaction_proactiveness),
            not for a block of some order.
    """

    at_ns: int
    cpu: int
    pfn: int
    pages: int
    last: bool = False
    drain_all: bool = False
    proactive: bool = False


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

    async def run(
        self,
        cpu: int,
        zone: Zone,
        wanted: int,
        *,
        last: bool,
        drain_all: bool,
        proactive: bool = False,
    ) -> None:
        """compact_zone(): move so many pages, a cluster at a time.

        Args:
            cpu: Where kcompactd runs.
            zone: Which zone.
            wanted: Pages to move; fewer when the scanners meet.
            last: Whether the run ends with these.
            drain_all: Whether the per-CPU lists of all CPUs are drained behind it, as after a run
                that went through the whole zone.
            proactive: Whether the run is for no order: through the whole zone, scanners only, and
                no drain behind a pageblock.
        """
        scanners = self.scanners[zone]
        if scanners.met or (proactive and not scanners.running):
            scanners.reset()
        scanners.running = not last
        scanners.fast = not proactive
        while wanted > 0:
            if scanners.may_search:
                await self._search_source(scanners)
            sources = scanners.next_sources(min(wanted, COMPACT_CLUSTER_MAX))
            if not sources:
                break
            wanted -= len(sources)
            await self._migrate(cpu, scanners, sources)
            left = scanners.migrate_pfn >> PAGEBLOCK_ORDER != sources[-1] >> PAGEBLOCK_ORDER
            if left and not proactive:
                # What was freed there is to merge before anybody looks whether it did.
                await self.threads.drain_cpu(cpu, zone, cpu)
        if last:
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

    async def _search_source(self, scanners: Scanners) -> None:
        lock: Any = scanners.zone.lock
        await lock.acquire()
        scanners.search_source()
        lock.release()
        await Step()

    async def _isolate_free(self, scanners: Scanners, wanted: int) -> None:
        """isolate_freepages(): from the free lists, else each pageblock under one lock hold."""
        zone: Any = scanners.zone
        if scanners.fast:
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
