"""Compaction as kcompactd does it: pages move up, so that large blocks come free further down.

A migration scanner goes up from the start of a zone and collects pages that can be moved, a free
scanner goes down from its end and collects where to. Both follow mm/compaction.c of 6.12. When it
runs, and for how many pages unless its scanners met, a recorded kernel says
(:mod:`hintbench.traces.compaction`); which pages these are the model decides, whose free lists are
its own.

Left out: folios of more than a page stay where they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.core.contexts import Step
from hintbench.core.migration import move_page
from hintbench.kernel.compaction_scanners import COMPACT_CLUSTER_MAX, Scanners, block_start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hintbench.core.zone import Zone
    from hintbench.kernel.task_frees import TaskFrees

MIGRATE_PAGE_NS: Final = 9_000
"""Moving one page: compaction takes 2.3 to 6.6 ms to make a huge page (Aaron Lu's measurement)."""


@dataclass(frozen=True, slots=True)
class CompactionRun:
    """What kcompactd does in one go.

    Attributes:
        freed_ns: When it frees the source of each page that it moves, rising [virtual ns]; what a
            model moves beyond these comes right behind.
        cpus: Where it runs then.
        pfn: A page of the zone.
        drain_all: Whether it drains the per-CPU lists of all CPUs at the end. kcompactd_do_work()
            does so behind a run whose scanners have met, so here it moves pages until they have,
            however many that is.
        proactive: Whether it compacts because the zone is fragmented (compaction_proactiveness),
            not for a block of some order.
        emptied_ns: When that drain had emptied each CPU's list, by CPU [virtual ns]; others' lists
            follow at once. The host may take its vCPU away in the middle.
    """

    freed_ns: Sequence[int]
    cpus: Sequence[int]
    pfn: int
    drain_all: bool = False
    proactive: bool = False
    emptied_ns: Mapping[int, int] = field(default_factory=dict)

    @property
    def begin_ns(self) -> int:
        """When it begins [virtual ns]: what is moved first has a copy before its source is free."""
        first = min(len(self.freed_ns), COMPACT_CLUSTER_MAX)
        return max(0, self.freed_ns[0] - first * MIGRATE_PAGE_NS)


class _Progress:
    """A run in progress.

    Attributes:
        moved: Pages that it has moved.
        batch: Pages that have been copied and are not freed yet: source, destination, slot.
    """

    def __init__(self, zone: Zone, run: CompactionRun) -> None:
        self.zone = zone
        self.run = run
        self.moved = 0
        self.batch: deque[tuple[int, int, int]] = deque()

    @property
    def cpu(self) -> int:
        """Where the next page is freed, or the last one was."""
        return self.run.cpus[min(self.moved, len(self.run.cpus) - 1)]

    @property
    def left(self) -> int:
        """Pages that may still be moved: no end to them where the recorded scanners have met."""
        if self.run.drain_all:
            return int(self.zone.managed_pages)
        return len(self.run.freed_ns) - self.moved


class Compaction:
    """kcompactd of a guest.

    Args:
        frees: Frees pages as a task.
    """

    def __init__(self, frees: TaskFrees) -> None:
        self.frees = frees
        self.simulation = frees.simulation
        self.guest = frees.guest
        self.scanners = {zone: Scanners(zone) for zone in self.simulation.zones}
        self._waiting: dict[int, deque[tuple[Zone, CompactionRun]]] = {}

    def start(self, zone: Zone, run: CompactionRun) -> None:
        """Begin a run, once those of its node that were begun before have ended.

        A node has one kcompactd, which goes from zone to zone.

        Args:
            zone: Which zone.
            run: What is to be done.
        """
        if zone.node in self._waiting:
            self._waiting[zone.node].append((zone, run))
            return
        self._waiting[zone.node] = deque()
        self._begin(zone, run)

    def _begin(self, zone: Zone, run: CompactionRun) -> None:
        self.scanners[zone].begin(proactive=run.proactive)
        self._go_on(_Progress(zone, run))

    def _begin_next(self, node: int) -> None:
        """A run of this node's thread is over."""
        waiting = self._waiting[node]
        if waiting:
            self._begin(*waiting.popleft())
        else:
            del self._waiting[node]

    def _go_on(self, progress: _Progress) -> None:
        cpu = progress.cpu
        self.frees.scheduler.spawn(self._compact(cpu, progress), cpu, "kcompactd", kernel=True)

    async def _compact(self, cpu: int, progress: _Progress) -> None:
        """compact_zone(), until kcompactd is put on another CPU or the run is over."""
        scanners = self.scanners[progress.zone]
        while True:
            while progress.batch:
                if progress.cpu != cpu:
                    self._go_on(progress)
                    return
                await self._move(cpu, progress)
            await self._flush(cpu, scanners)
            if not progress.left or not await self._next_batch(cpu, progress):
                break
        await self._end(cpu, progress)
        self._begin_next(progress.zone.node)

    async def _flush(self, cpu: int, scanners: Scanners) -> None:
        """lru_add_drain_cpu_zone(): what was freed in a pageblock is to merge.

        Not for order -1, which no block has to come free for.
        """
        if scanners.fast and 0 <= scanners.last_migrated_pfn < block_start(scanners.migrate_pfn):
            scanners.last_migrated_pfn = -1
            await self.frees.drain_all_of(cpu, scanners.zone, cpu)

    async def _end(self, cpu: int, progress: _Progress) -> None:
        """release_free_list(), and what kcompactd_do_work() does behind an unsuccessful run."""
        scanners = self.scanners[progress.zone]
        for pfn, order in scanners.release():
            await self.frees.hand_out(cpu, pfn, order)
            await self.frees.free(cpu, progress.zone, pfn, order)
        if progress.run.drain_all:
            # Where the model had moved everything earlier, the recorded one was still at it.
            await self._sleep_until(progress.run.freed_ns[-1])
            for other in self.guest.cpus:
                await self._sleep_until(progress.run.emptied_ns.get(other, 0))
                await self.frees.drain_all_of(cpu, progress.zone, other)

    async def _sleep_until(self, at_ns: int) -> None:
        early_ns = at_ns - self.simulation.clock.now
        if early_ns > 0:
            await self.guest.sleep(early_ns)

    async def _next_batch(self, cpu: int, progress: _Progress) -> bool:
        """isolate_migratepages(), and migrate_pages() up to where the first source is freed.

        Returns:
            Whether there was something to move.
        """
        scanners = self.scanners[progress.zone]
        while not scanners.met:
            start = scanners.migrate_pfn
            scanners.finish_pageblock = scanners.last_migrated_pfn >= 0 and (
                block_start(scanners.last_migrated_pfn) == block_start(start)
            )
            if scanners.may_search:
                start = await self._search_source(scanners)
            sources = scanners.next_sources(start, progress.left)
            if sources:
                return await self._copy(cpu, progress, sources)
            await self._flush(cpu, scanners)
        scanners.reset()
        return False

    async def _search_source(self, scanners: Scanners) -> int:
        lock: Any = scanners.zone.lock
        await lock.acquire()
        start = scanners.search_source()
        lock.release()
        await Step()
        return start

    async def _copy(self, cpu: int, progress: _Progress, sources: Sequence[int]) -> bool:
        """migrate_pages_batch(): a destination for each source, before any source is freed."""
        scanners = self.scanners[progress.zone]
        slot_of = self._slots_of(sources)
        for done, source in enumerate(sources):
            if not scanners.free_pages:
                await self._isolate_free(scanners, len(sources) - done)
            destination = scanners.take_page()
            if destination < 0:
                break
            await self.frees.hand_out(cpu, destination, 0)
            cost = MIGRATE_PAGE_NS + self.simulation.backing.populate(destination, 0)
            self.guest.spend(cost)
            await Step()
            progress.batch.append((source, destination, slot_of.get(source, -1)))
        return bool(progress.batch)

    async def _isolate_free(self, scanners: Scanners, wanted: int) -> None:
        """isolate_freepages(): from the free lists, else each pageblock under one lock hold."""
        lock: Any = scanners.zone.lock
        if scanners.fast:
            await lock.acquire()
            scanners.search_free(wanted)
            lock.release()
            await Step()
            if scanners.free_pages:
                return
        for first, end in scanners.targets():
            await lock.acquire()
            scanners.isolate_target(first, end, wanted)
            lock.release()
            await Step()

    async def _move(self, cpu: int, progress: _Progress) -> None:
        """migrate_folio_move(): the owner goes on with the copy, and the source is freed."""
        source, destination, slot = progress.batch.popleft()
        late_ns = progress.run.freed_ns[min(progress.moved, len(progress.run.freed_ns) - 1)]
        await self._sleep_until(late_ns)
        if move_page(self.simulation, source, destination, slot):
            progress.moved += 1
            await self.frees.free(cpu, progress.zone, source, 0)
        else:
            # Its owner has freed it meanwhile.
            await self.frees.prepare(cpu, destination, 0)
            self.scanners[progress.zone].put_page(destination)

    def _slots_of(self, pfns: Sequence[int]) -> dict[int, int]:
        """The slot of each page that has one."""
        slots = self.simulation.slot_pfns()
        wanted = np.zeros(self.simulation.pages.page_count, dtype=bool)
        wanted[list(pfns)] = True
        found = np.flatnonzero((slots >= 0) & wanted[np.maximum(slots, 0)])
        return {int(slots[slot]): int(slot) for slot in found}
