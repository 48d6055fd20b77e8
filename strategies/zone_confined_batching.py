"""zone-confined-batching: v9's array, repaired as the review asks.

What it tracks: a ring of pfns per CPU, the units of 2^min_order pages of freed blocks (what is
    smaller is left to the buddy allocator to assemble), and per unit whether the host was *told*;
    that is forgotten as soon as the block leaves its free list. Not the heads alone: the schedule
    explorer showed a block of order 10 split before it was collected, whose free half was lost.
When it reports: a worker per CPU, `delay_ns` after its first capture or at `threshold` captures,
    so that no residue stays; and a rescan of all zones at the start, and after a ring was full.
What it holds: `batch` isolated blocks of each zone at most, of one zone at a time: one take of its
    lock isolates them, one puts them back at the tail, unnotified. In between no lock is held.
    `memory_low` waits for the zone's batch, and nothing is isolated meanwhile nor for one delay
    after, so that an allocation stalls rather than fails.
Whose idea: Alexander Duyck, in his review of v9 2/6 (2019-03-07): "confining yourself to one zone
    worth of hints at a time. Then you can acquire the lock once, and then return the memory".
Known defects: what is in flight cannot be allocated; two takes of the lock per batch; a told block
    that is split or merged is told again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Block, Guest, PerCpu, Zone

MOST_DOUBLINGS = 6  # of the delay, while the host fails


class ZoneConfinedBatching(Strategy):
    """Duyck's repair of v9: one zone's batch at a time, one lock take to isolate, one to return."""

    name = "zone-confined-batching"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """Order, sizes and the timer."""

        min_order: int = Field(10, ge=9, le=10, description="smallest block told [order]; v9's 10")
        ring_entries: int = Field(
            256, ge=1, le=65536, description="captures kept per CPU [pfns]; v9's array"
        )
        threshold: int = Field(
            16, ge=1, le=65536, description="captures that do not wait for the timer [pfns]"
        )
        batch: int = Field(
            32, ge=1, le=1024, description="most blocks of a zone in flight, as upstream [blocks]"
        )
        delay_ns: int = Field(
            100_000_000, ge=0, le=60_000_000_000, description="from the first capture on [ns]"
        )
        slice_units: int = Field(
            256, ge=1, le=65536, description="units that a rescan looks at under one hold [units]"
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {
        "min_order": 9,
        "ring_entries": 4,
        "threshold": 2,
        "batch": 2,
        "delay_ns": 300_000,
        "slice_units": 4,
    }

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Make rings and workers, and ask for a rescan: what is free now is captured once."""
        self.guest, self.stopping, self.failures = guest, False, 0
        given = self.parameters  # some are asked for with every unit
        self.min_order, self.batch, self.threshold = given.min_order, given.batch, given.threshold
        self.told = guest.flags("told", order=self.min_order, meaning="told", forget="taken")
        self.in_flight: set[Zone] = set()
        self.waiting, self.low_until_ns = 0, 0  # allocations, and until when nothing is isolated
        self.returned = {zone: guest.event() for zone in guest.zones}
        self.rings: PerCpu[list[int]] = guest.per_cpu(list)
        self.captured = [guest.event() for _ in guest.cpus]  # a first capture
        self.enough = [guest.event() for _ in guest.cpus]  # do not wait for the timer
        self.rescan_wanted, self.stop = guest.event(), guest.event()
        self.rescan_wanted.set()
        self.tasks = [
            guest.spawn(self._serve(cpu), cpu=cpu, name=f"hint/{cpu}") for cpu in guest.cpus
        ]
        self.tasks.append(guest.spawn(self._rescan(), cpu=guest.cpus[0], name="hint/rescan"))

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Only blocks of the minimum order concern it; the allocator has the order at hand."""
        return {"block_freed": HookFilter(min_order=self.parameters.min_order)}

    @hookimpl
    def block_freed(self, cpu: int, pfn: int, order: int) -> None:
        """Capture the merged block in the running CPU's ring; interrupts are off."""
        for unit in self._units(pfn, order):
            self._capture(cpu, unit)

    def _units(self, pfn: int, order: int) -> range:
        """The units of a block: whichever of them is split off, the others are found."""
        return range(pfn, pfn + (1 << order), 1 << self.min_order)

    def _capture(self, cpu: int, pfn: int) -> None:
        """Put a unit into a CPU's ring; interrupts are off."""
        ring = self.rings[cpu]
        if self.stopping:
            return
        if len(ring) == self.parameters.ring_entries:
            self.guest.count_drop("ring full")
            self.rescan_wanted.set()
            return
        ring.append(pfn)
        if len(ring) == 1:
            self.captured[cpu].set()
        if len(ring) == self.threshold:
            self.enough[cpu].set()

    async def _serve(self, cpu: int) -> None:
        """The worker of one CPU, which runs there: sort the ring by zone and tell each zone's."""
        while not self.stopping:
            await self.captured[cpu].wait()
            if not self.stopping:
                # After a failure only the timer counts, and that ever less often.
                hurry = self.stop if self.failures else self.enough[cpu]
                await hurry.wait(timeout_ns=self.parameters.delay_ns << self.failures)
            by_zone: dict[Zone, list[int]] = {}
            for pfn in self._swap(cpu):
                by_zone.setdefault(self.guest.zone_of(pfn), []).append(pfn)
            for zone, pfns in by_zone.items():
                refused = await self._tell_all(zone, pfns)
                with self.guest.interrupts_off():
                    for pfn in refused:
                        self._capture(cpu, pfn)
                    # What was refused waits for the timer, however much it is.
                    self.enough[cpu].clear()
        self._swap(cpu)

    def _swap(self, cpu: int) -> list[int]:
        """Take the ring of the running CPU and leave an empty one."""
        with self.guest.interrupts_off():
            self.enough[cpu].clear()
            pfns = self.rings[cpu][:]
            self.rings[cpu].clear()
        return pfns

    async def _rescan(self) -> None:
        """Look at every unit of every zone, a slice at a time, when captures were lost."""
        unit_pages = 1 << self.min_order
        while not self.stopping:
            await self.rescan_wanted.wait()
            if not self.stopping:
                await self.stop.wait(timeout_ns=self.parameters.delay_ns << self.failures)
            for zone in self.guest.zones:
                units = range(zone.start_pfn & -unit_pages, zone.end_pfn, unit_pages)
                for at in range(0, len(units), self.parameters.slice_units):
                    if await self._tell_all(zone, units[at : at + self.parameters.slice_units]):
                        self.rescan_wanted.set()  # refused: the rest of this zone after the delay
                        break

    async def _tell_all(self, zone: Zone, pfns: Iterable[int]) -> list[int]:
        """Tell the host of the blocks around these pfns; those that are left, if refused."""
        left, refused = list(pfns), False
        while left and not refused and not self.stopping:
            left, refused = await self._tell_batch(zone, left)
        return left

    async def _tell_batch(self, zone: Zone, pfns: list[int]) -> tuple[list[int], bool]:
        """Isolate, report and put back one batch; the pfns that are left, and if it was refused."""
        while zone in self.in_flight:
            await self.returned[zone].wait()
        self.in_flight.add(zone)
        self.returned[zone].clear()
        taken, left, refused = await self._isolate(zone, pfns)
        if taken:
            acknowledged = await self.guest.host.report(taken)
            await self._put_back(zone, taken, acknowledged)
            self.failures = 0 if acknowledged else min(self.failures + 1, MOST_DOUBLINGS)
            if not acknowledged:
                for block in taken:
                    left += self._units(block.pfn, block.order)
                refused = True
        self.in_flight.remove(zone)
        self.returned[zone].set()
        return left, refused

    async def _isolate(self, zone: Zone, pfns: list[int]) -> tuple[list[Block], list[int], bool]:
        """Isolate the free blocks around some pfns: the first take of the zone lock."""
        taken: list[Block] = []
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return taken, pfns, True
            for at, pfn in enumerate(pfns):
                if len(taken) == self.batch:
                    return taken, pfns[at:], False
                # Whatever page of the block was captured: the same one look-up, orders upwards.
                block = zone.free_block_of(pfn)
                if block is None or block.order < self.min_order:
                    continue  # taken since
                if self.told.any(block.pfn, block.order):
                    continue  # captured twice
                isolated = zone.isolate(block.pfn)
                if isolated is None:  # the watermark forbids it
                    return taken, pfns[at:], True
                taken.append(isolated)
        return taken, [], False

    async def _put_back(self, zone: Zone, taken: list[Block], acknowledged: bool) -> None:
        """Give all of the batch back to the buddy allocator: the second take."""
        async with zone.lock:
            for block in taken:
                order = zone.put_back(block, tail=True, notify=False)
                # Merged with a buddy that was freed meanwhile, it is not all told.
                if acknowledged and order == block.order:
                    self.told.set(block.pfn, block.order)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Let the allocation wait for what this zone has in flight, and have it before others."""
        self.waiting += 1
        if zone in self.in_flight:
            await self.returned[zone].wait()
        self.waiting -= 1
        self.low_until_ns = self.guest.now + self.parameters.delay_ns

    @hookimpl
    async def guest_stopping(self) -> None:
        """Cancel the timers, let the batches come back, and empty the rings."""
        self.stopping = True
        for event in (*self.captured, *self.enough, self.rescan_wanted, self.stop):
            event.set()
        for task in self.tasks:
            await task.join()

    def claims(self) -> Claims:
        """One zone's batch, one take of its lock to isolate and one to return."""
        given = self.parameters
        return Claims(
            min_order=given.min_order,
            liveness_bound_ns=2 * given.delay_ns + 2_000_000_000,
            initial_flush=True,
            in_flight_pages=given.batch << 10,
            lock_takes=(1, 1),
            hold_visits=max(given.ring_entries, given.slice_units),
            one_zone=True,
            once=True,
            any_pfn=True,
        )
