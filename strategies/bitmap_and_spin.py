"""bitmap-and-spin: mark blocks where they lie, and let whoever takes one wait.

What it tracks: three bits per *unit* of 2^min_order pages, never per head, so that splits and
    merges change nothing: *pending* (a candidate), *mid* (the host is being told), *told* (the
    host has it). An allocation clears told; native, in the core.
When it reports: a worker per zone, `delay_ns` after the first candidate or as soon as there are
    `batch`. It finds the candidates that are still free, and sets mid, under one take of the zone
    lock; then it posts them without any lock. Once the host has acknowledged: told, then not mid.
What it holds: nothing. The blocks stay on the free list; `page_allocated` spins while a unit of
    the page is mid, before the caller has it. At most `batch` units per zone are mid.
Whose idea: Alexander Duyck, in his review of v9 2/6 (2019-03-07): "a bit in the page and then
    spinning on that bit in arch_alloc_page".
Why it is safe: marking and leaving the free list are ordered by the zone lock; a page whose unit
    is mid has no user, and only a pcp drain moves it.
Why it ends: whoever polls a completion clears the marks: the interrupt, the worker, or a spinner
    with interrupts off. From marking to posting, and from polling to clearing, interrupts are
    off, or one that spins on the same vCPU would wait for what it interrupted.
What it needs: a queue that allocates nothing. With indirect descriptors (a feature of the device,
    VIRTIO_RING_F_INDIRECT_DESC) virtqueue_add_split() calls kmalloc_array() for every request of
    more than one descriptor. The page for that may come out of a unit just marked; whoever takes it
    spins then, with interrupts off, on the one vCPU that could still post the report. So the queue
    must use direct descriptors, or tables made beforehand, as the model's does. The faults of
    `hintbench check` have the other kind, "queue-allocates", which is never drawn.
Known defects: an allocation may wait for a whole report, all vCPUs at once (Hildenbrand).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Freed, Guest, Zone

LOOK_AT_MOST = 4  # candidates under one hold, per unit of the batch: stale ones cost a look-up
MOST_DOUBLINGS = 6  # of the delay, while the host fails


class ZoneWork:
    """What the worker of one zone and the hooks share."""

    def __init__(self, guest: Guest, zone: Zone) -> None:
        """Start idle."""
        self.zone = zone
        self.wake = guest.event()  # there is a candidate
        self.full = guest.event()  # there are enough for a batch
        self.done = guest.event()  # somebody took the acknowledgement
        self.candidates = 0  # since the last pass [units]
        self.failures = 0  # reports that failed in a row
        self.in_flight = False


class BitmapAndSpin(Strategy):
    """Duyck's bit: blocks stay on the free list, takers spin until the host has acknowledged."""

    name = "bitmap-and-spin"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """Unit, batch and delays."""

        min_order: int = Field(
            10, ge=9, le=10, description="the unit, and the smallest block told [order]"
        )
        batch: int = Field(
            16, ge=1, le=1024, description="most units of a zone in flight; v10's 16 [units]"
        )
        delay_ns: int = Field(
            100_000_000, ge=0, le=60_000_000_000, description="from the first candidate on [ns]"
        )
        poll_ns: int = Field(
            1_000_000, ge=1_000, le=1_000_000_000, description="between looks for an answer [ns]"
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {
        "min_order": 9,
        "batch": 2,
        "delay_ns": 300_000,
        "poll_ns": 500_000,
    }

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Make the bits and the workers; all that is free is a candidate."""
        self.guest, self.stopping, order = guest, False, self.parameters.min_order
        self.unit_pages = 1 << order
        self.pending = guest.flags("pending", order=order)
        self.mid = guest.flags("mid-hint", order=order, meaning="in-flight")
        self.told = guest.flags("told", order=order, meaning="told", forget="allocated")
        # In a zone that could never pass the gate nothing is tracked.
        large = [zone for zone in guest.zones if self._room(zone, zone.managed_pages) > 0]
        self.works = {zone.index: ZoneWork(guest, zone) for zone in large}
        self.tasks = []
        for number, work in enumerate(self.works.values()):
            zone = work.zone
            for pfn in range(zone.start_pfn & -self.unit_pages, zone.end_pfn, self.unit_pages):
                self.pending.set(pfn)
            work.wake.set()
            cpu, name = guest.cpus[number % len(guest.cpus)], f"hint/{zone.index}"
            self.tasks.append(guest.spawn(self._serve(work), cpu=cpu, name=name))

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Test mid on every allocation, also on pcp hits; call only when it is set."""
        return {
            "page_allocated": HookFilter(flags=self.mid, cost_ns=self.guest.costs.flag_ns),
            "block_freed": HookFilter(min_order=self.parameters.min_order),
        }

    @hookimpl
    def block_freed(self, zone: Zone, freed: Freed) -> None:
        """Nominate the units of what was freed; the rest of the merged block keeps its bits."""
        work = self.works.get(zone.index)
        if work is None or self.stopping:
            return
        for pfn in range(freed.pfn, freed.pfn + (1 << freed.order), self.unit_pages):
            # Mid before told: an acknowledgement in between sets told first, and is not missed.
            if self.mid.test(pfn) or self.told.test(pfn) or self.pending.test_and_set(pfn):
                continue
            work.candidates += 1
            if work.candidates == 1:
                work.wake.set()
            elif work.candidates == self.parameters.batch and not work.failures:
                work.full.set()

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Spin while a unit of the page is mid; *then* the core forgets that it was told."""
        await self.mid.wait_clear(pfn, order, poll=self._take_completions)

    async def _serve(self, work: ZoneWork) -> None:
        """The worker of one zone."""
        batch, delay_ns = self.parameters.batch, self.parameters.delay_ns
        while not self.stopping:
            await work.wake.wait()
            if work.failures or work.candidates < batch:
                work.full.clear()
                if not self.stopping:
                    await work.full.wait(timeout_ns=delay_ns << work.failures)
            work.candidates = 0
            while await self._tell(work):
                pass
            if self.pending.find(work.zone.start_pfn, work.zone.end_pfn, limit=1):
                work.wake.set()  # the gate was shut, or the host refused: again after the delay

    async def _tell(self, work: ZoneWork) -> bool:
        """Tell the host of one batch; whether there may be more to tell."""
        zone = work.zone
        most = self.parameters.batch * LOOK_AT_MOST
        candidates = self.pending.find(zone.start_pfn, zone.end_pfn, limit=most)
        if self.stopping or not candidates or self._room(zone, zone.free_pages) <= 0:
            return False
        with self.guest.interrupts_off():
            units = await self._mark(zone, candidates)
            if not units:
                return True
            work.in_flight = True
            if not await self.guest.host.post(units, self._take_completions, joined=True):
                self._settle(units, acknowledged=False)
        while work.in_flight:
            if not await work.done.wait(timeout_ns=self.parameters.poll_ns):
                self._take_completions()
        return work.failures == 0

    async def _mark(self, zone: Zone, candidates: list[int]) -> list[Block]:
        """Set mid for candidates that are free: the only take of the zone lock."""
        units: list[Block] = []
        async with zone.lock:
            room = min(self.parameters.batch, self._room(zone, zone.free_pages))
            for pfn in candidates:
                if len(units) >= room:
                    break
                self.pending.clear(pfn)
                block = zone.free_block_of(pfn)
                # Else it is stale: it was taken since, and its next free nominates it again.
                if block is not None and block.order >= self.parameters.min_order:
                    self.mid.set(pfn)
                    units.append(Block(pfn, self.parameters.min_order, zone))
        return units

    def _take_completions(self) -> None:
        """Take what the host has acknowledged: interrupt, spinner or worker, whoever is first."""
        with self.guest.interrupts_off():
            while (completion := self.guest.host.poll()) is not None:
                self._settle(completion.blocks, completion.ok)

    def _settle(self, units: Iterable[Block], acknowledged: bool) -> None:
        """End a batch: told before not mid, since a spinner clears told as soon as it may."""
        for unit in units:
            if acknowledged:
                self.told.set(unit.pfn)
            self.mid.clear(unit.pfn)
            if not acknowledged:
                self.pending.set(unit.pfn)
        work = self.works[unit.zone.index]
        work.failures = 0 if acknowledged else min(work.failures + 1, MOST_DOUBLINGS)
        work.in_flight = False
        work.done.set()

    @hookimpl
    async def guest_stopping(self) -> None:
        """Mark nothing more, and wait for what is in flight."""
        self.stopping = True
        for work in self.works.values():
            work.wake.set()
            work.full.set()
        for task in self.tasks:
            await task.join()

    def _room(self, zone: Zone, free_pages: int) -> int:
        """Units that may be marked with this much free memory: low watermark and a batch stay."""
        return (free_pages - zone.watermark_low) // self.unit_pages - self.parameters.batch

    def claims(self) -> Claims:
        """One take of the lock per batch, none to return."""
        given = self.parameters
        return Claims(
            min_order=given.min_order,
            liveness_bound_ns=given.delay_ns + 2_000_000_000,
            initial_flush=True,
            in_flight_pages=given.batch << given.min_order,
            lock_takes=(1, 0),
            hold_visits=given.batch * LOOK_AT_MOST,
            one_zone=True,
            once=True,
            any_pfn=True,
            gate=lambda zone: self._room(zone, zone.free_pages) <= 0,
        )
