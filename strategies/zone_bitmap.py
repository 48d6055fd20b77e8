"""zone-bitmap: a bitmap of free huge pages for each zone, and one work item.

What it tracks: a bit for each 2 MiB of each zone, and how many bits are set in it. The end of
    every free sets the bit of the merged block's first page, if the block is large enough.
    Nothing clears it when the block is allocated, unless `clear_on_allocation`; the scan finds
    stale bits.
When it reports: as soon as a free finds `batch` bits set in its zone and the work item not active.
    The work item goes through every zone with so many: bit by bit it takes the zone lock,
    isolates the block if it is free, clears the bit, and drops the lock. At `batch` blocks, and at
    the end of the zone, it tells the host and waits. `swap` takes the whole bitmap at once
    instead, and scans a copy of its own.
What it holds: up to `batch` isolated blocks of one zone, 64 MiB by default; they come back under
    one take of the lock, to the heads of their lists, and set no bits.
Whose idea: Nitesh Narayan Lal, "[RFC][Patch v10 0/2] mm: Support for page hinting", 2019-06-03,
    up to v12 of 2019-08-12; `swap` is Alexander Duyck's proposal in the review of v11.
Known defects:
    * fewer than `batch` blocks of a zone are never told, and while the work item is active no free
      asks for another run;
    * a take of the zone lock for each bit, stale ones too;
    * bitmap and count are atomics that all freeing CPUs share;
    * a blocking allocation can fail while blocks are in flight.
    The posted code also took the zone lock with interrupts on (mended in v11): not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hintbench import Block, Guest, Task, UnitFlags, Zone

RESULT_BYTES = 16
"""An isolated page: its address and its order."""


class ZoneBitmap(Strategy):
    """Nitesh's v10 to v12: a bit for each free huge page of a zone, 16 told at a time."""

    name = "zone-bitmap"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """The constants of v10, and what was proposed or came later."""

        order: int = Field(
            9,
            ge=0,
            le=10,
            description="smallest block told, and what a bit stands for [order];"
            " PAGE_HINTING_MIN_ORDER, MAX_ORDER - 2 of 2019",
        )
        batch: int = Field(
            16,
            ge=1,
            le=1024,
            description="blocks per call of the host, and set bits that start the work item;"
            " PAGE_HINTING_MAX_PAGES",
        )
        swap: bool = Field(
            False, description="whether the work item takes the whole bitmap under one lock hold"
        )
        clear_on_allocation: bool = Field(
            False,
            description="whether a block that leaves its free list loses its bits; v11 and v12"
            " cleared them on allocation",
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {"order": 9, "batch": 2}
    declared_failures: Mapping[str, str] = {
        "liveness": "a residue below the batch is never told",
        "no-false-oom": "nothing makes an allocation wait for the blocks that are being told",
    }

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Allocate the bitmaps; what is free by now is not in them."""
        self.guest, self.enabled, self.active = guest, True, False
        self.work: Task | None = None
        forget = "taken" if self.parameters.clear_on_allocation else "never"
        self.bitmaps = {
            zone: guest.flags(f"bitmap {zone.index}", order=self.parameters.order, forget=forget)
            for zone in guest.zones
        }
        self.spare = {
            zone: guest.flags(f"spare {zone.index}", order=self.parameters.order, forget=forget)
            for zone in (guest.zones if self.parameters.swap else ())
        }

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Compare the order, which the allocator has at hand."""
        return {"block_freed": HookFilter(min_order=self.parameters.order)}

    # -- capture --------------------------------------------------------------------------------

    @hookimpl
    def block_freed(self, cpu: int, zone: Zone, pfn: int) -> None:
        """page_hinting_enqueue(): set the bit of the block's first page, perhaps start the work."""
        if not self.enabled:
            return
        bitmap = self.bitmaps[zone]
        if not bitmap.test_and_set(pfn):
            self.guest.spend(self.guest.costs.flag_ns)  # atomic_inc(&free_pages)
        if self.active or bitmap.count < self.parameters.batch:
            return
        # queue_work_on() does nothing for an item that is pending already.
        if self.work is None or self.work.done:
            self.work = self.guest.spawn(self._scan_zones(), cpu=cpu, name="page_hinting")

    # -- the work item --------------------------------------------------------------------------

    async def _scan_zones(self) -> None:
        """init_hinting_wq(): each zone that has enough, one after the other."""
        self.active = True
        for zone in self.guest.zones:
            if self.bitmaps[zone].count >= self.parameters.batch:
                await self._scan(zone)
        self.active = False

    async def _scan(self, zone: Zone) -> None:
        """scan_zone_bitmap(): isolate what is still free, and tell it in batches."""
        if not await self.guest.allocate_buffer(self.parameters.batch * RESULT_BYTES):
            return
        bitmap = await self._swap(zone) if self.parameters.swap else self.bitmaps[zone]
        isolated: list[Block] = []
        for pfn in self._set_bits(zone, bitmap):
            async with zone.lock:
                if zone.free_order(pfn) >= self.parameters.order:
                    block = zone.isolate(pfn)  # None: the watermark forbids it, and the bit goes
                    isolated += [block] if block is not None else []
                bitmap.clear(pfn)
                if not self.parameters.swap:
                    self.guest.spend(self.guest.costs.flag_ns)  # atomic_dec(&free_pages)
            if len(isolated) == self.parameters.batch:
                await self._tell(zone, isolated)
        if isolated:
            await self._tell(zone, isolated)

    def _set_bits(self, zone: Zone, bitmap: UnitFlags) -> Iterator[int]:
        """for_each_set_bit(): one after the other, as they are when the search gets there."""
        pfn, unit_pages = zone.start_pfn, 1 << self.parameters.order
        while found := bitmap.find(pfn, zone.end_pfn, limit=1):
            yield found[0]
            pfn = found[0] + unit_pages

    async def _swap(self, zone: Zone) -> UnitFlags:
        """Duyck's proposal: an empty bitmap for the frees, and a private one for the scan."""
        async with zone.lock:
            taken = self.bitmaps[zone]
            self.bitmaps[zone], self.spare[zone] = self.spare[zone], taken
        return taken

    async def _tell(self, zone: Zone, isolated: list[Block]) -> None:
        """hinting_request(): tell the host, wait, and give the blocks back, told or not."""
        await self.guest.host.report(isolated)
        async with zone.lock:
            for block in isolated:
                zone.put_back(block, tail=False, notify=False)
        isolated.clear()

    @hookimpl
    async def guest_stopping(self) -> None:
        """page_hinting_disable(): no more captures, and the work item ends."""
        self.enabled = False
        if self.work is not None:
            await self.work.join()

    def claims(self) -> Claims:
        """A take of the lock for each bit, one to return."""
        given = self.parameters
        return Claims(
            min_order=given.order,
            liveness_bound_ns=1_000_000_000,
            in_flight_pages=given.batch << 10,
            one_zone=True,
        )
