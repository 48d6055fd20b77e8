"""zone-bitmap: a bitmap of free huge pages for each zone, and one work item.

What it tracks: a bit for each 2 MiB, and how many are set. The end of every free sets the bit of
    the merged block's first page, if the block is large enough. Nothing clears it when the block is
    allocated; the scan finds stale bits.
When it reports: once a free finds `batch` bits set, a work item goes through all bitmaps with so
    many. Bit by bit it takes the zone lock, isolates the block if it is free, and clears the bit;
    at `batch` blocks, and at the end, it tells the host and waits.
What it holds: up to `batch` isolated blocks, 64 MiB by default. They come back to the heads of
    their lists, and set no bits.
Whose idea: Nitesh Narayan Lal, "[RFC][Patch v10 0/2] mm: Support for page hinting", 2019-06-03, v11
    of 07-10 and v12 of 08-12. They differ; `version` says which of them is meant:
    * v10: a bitmap for each *type* of zone, of the first zone of that type. Any free of a large
      block queues the work if some zone has enough bits, also while it runs; it subtracts what it
      found counted at once, and needs memory for each scan and for each request. Every block goes
      back under a take of the lock of its own.
    * v11: a bitmap spans the zones of a type of all nodes. The work is queued for bits of the zone
      that was freed to, and not while it runs. Blocks go back as in v10.
    * v12: a bitmap for each zone; blocks go back under one take of its lock, and to the list of
      the migratetype that their first pageblock had (isolation makes pageblocks MOVABLE, and v10
      and v11 leave them so). On 6.12 the second pageblock of a block gets its type back too: there
      no half of it may be on a list of another type than its pageblock's. The bit is cleared after
      the lock was released: that of a block freed in between is lost.
    `swap` is Alexander Duyck's proposal in the review: take the bitmap under the lock, scan it in
    private. `clear_on_allocation` was in none of the three, which have no hook in the allocation;
    a tree of Nitesh's after v12, never posted, has one (page_reporting_dequeue()).
Known defects:
    * fewer than `batch` blocks of a zone are never told, and while the work of v11 and v12 runs no
      free asks for another;
    * a take of the zone lock for each bit, stale ones too;
    * bitmap and count are atomics that all freeing CPUs share;
    * a blocking allocation can fail while blocks are in flight;
    * v10: without memory for a scan its bits stay, but are counted no more; without memory for a
      request the blocks come back untold.
    Not modelled: all three take the zone lock by spin_lock() in the work item, interrupts on; v10
    spins for the host's answer, and numbers the bitmaps by populated zones, but uses the zone type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from hintbench import Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hintbench import Atomic, Block, Guest, Task, UnitFlags, Zone

PAGEBLOCK_PAGES = 512
RESULT_BYTES = 16
"""An isolated page: its address and its order."""


class FreeArea:
    """struct zone_free_area of v11, fields of struct zone in v12: a bitmap, and what it spans."""

    def __init__(
        self, zones: list[Zone], bitmap: UnitFlags, spare: UnitFlags, free_pages: Atomic[int]
    ) -> None:
        """Start empty."""
        self.zones = zones
        self.bitmap = bitmap
        self.spare = spare  # an empty one, for `swap` only
        self.free_pages = free_pages  # bits that are set, as the posted code counts them [blocks]


class ZoneBitmap(Strategy):
    """Nitesh's v10 to v12: a bit for each free huge page of a zone, 16 told at a time."""

    name = "zone-bitmap"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """The posted constants, which of the versions, and what was proposed."""

        version: Literal["v10", "v11", "v12"] = Field(
            "v12", description="which of the posted versions; the docstring says what differs"
        )
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
            description="whether a block that leaves its free list loses its bits; in no posted"
            " version",
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {"order": 9, "batch": 2}
    declared_failures: Mapping[str, str] = {
        "liveness": "a residue below the batch is never told",
        "no-false-oom": "nothing makes an allocation wait for the blocks that are being told",
    }

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """page_hinting_enable(): allocate the bitmaps; what is free by now is not in them."""
        self.guest, self.enabled, self.pending, self.active = guest, True, False, False
        self.version = self.parameters.version
        self.work: Task | None = None
        by_index: dict[int, list[Zone]] = {}
        for zone in guest.zones:
            index = zone.index if self.version == "v12" else zone.number
            by_index.setdefault(index, []).append(zone)
        self.areas: list[FreeArea] = []
        for index, zones in by_index.items():
            bitmap = self._bitmap(f"bitmap {index}")
            spare = self._bitmap(f"spare {index}") if self.parameters.swap else bitmap
            spanned = zones[:1] if self.version == "v10" else zones
            self.areas.append(FreeArea(spanned, bitmap, spare, guest.atomic(0)))
        self.area_of = {zone: area for area in self.areas for zone in area.zones}

    def _bitmap(self, name: str) -> UnitFlags:
        """bitmap_zalloc()."""
        forget = "taken" if self.parameters.clear_on_allocation else "never"
        return self.guest.flags(name, order=self.parameters.order, forget=forget)

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Compare the order, which the allocator has at hand."""
        return {"block_freed": HookFilter(min_order=self.parameters.order)}

    # -- capture --------------------------------------------------------------------------------

    @hookimpl
    def block_freed(self, cpu: int, zone: Zone, pfn: int) -> None:
        """page_hinting_enqueue(): set the bit of the block's first page, perhaps queue the work."""
        if not self.enabled:
            return
        area = self.area_of.get(zone)  # None: v10 has no bits for it
        if area is not None and not area.bitmap.test_and_set(pfn):
            area.free_pages.add(1)
        if self.version == "v10":
            wanted = any(map(self._has_batch, self.areas))
        else:
            wanted = not self.active and area is not None and self._has_batch(area)
        if wanted:
            self._queue_work(cpu)

    def _has_batch(self, area: FreeArea) -> bool:
        """Whether enough bits are set, as the count says."""
        if self.parameters.clear_on_allocation:
            # Whoever took the blocks has counted them off.
            return min(area.free_pages.read(), area.bitmap.count) >= self.parameters.batch
        return area.free_pages.read() >= self.parameters.batch

    # -- the work item --------------------------------------------------------------------------

    def _queue_work(self, cpu: int) -> None:
        """queue_work_on(): nothing for an item that is pending, but one that runs runs again."""
        if self.pending:
            return
        self.pending = True
        if self.work is None or self.work.done:
            self.work = self.guest.spawn(self._work(), cpu=cpu, name="page_hinting")

    async def _work(self) -> None:
        """init_hinting_wq(): each bitmap that has enough, one after the other."""
        while self.pending:
            self.pending, self.active = False, True
            for area in self.areas:
                if self._has_batch(area):
                    await self._scan(area)
            self.active = False

    async def _scan(self, area: FreeArea) -> None:
        """scan_zone_bitmap(): isolate what is still free, and tell it in batches."""
        counted, scanned = area.free_pages.read(), 0
        if self.version == "v10":
            area.free_pages.add(-counted)
            if not await self.guest.allocate_buffer(self.parameters.batch * RESULT_BYTES):
                return
        bitmap = await self._swap(area) if self.parameters.swap else area.bitmap
        isolated: list[Block] = []
        for pfn in self._set_bits(area, bitmap):
            zone = self.guest.zone_of(pfn)
            async with zone.lock:
                if zone.free_order(pfn) >= self.parameters.order:
                    isolated += self._isolate(zone, pfn)
                if self.version != "v12":
                    self._clear(area, bitmap, pfn)
            if self.version == "v12":
                await self.guest.step()  # who waited for the lock may have it before the bit goes
                self._clear(area, bitmap, pfn)
            scanned += 1
            if len(isolated) == self.parameters.batch:
                await self._tell(isolated)
        if isolated:
            await self._tell(isolated)
        if self.version == "v10":
            area.free_pages.add(-max(0, scanned - counted))  # set and counted during the scan

    def _set_bits(self, area: FreeArea, bitmap: UnitFlags) -> Iterator[int]:
        """for_each_set_bit(): one after the other, as they are when the search gets there."""
        pfn, unit_pages = area.zones[0].start_pfn, 1 << self.parameters.order
        while found := bitmap.find(pfn, area.zones[-1].end_pfn, limit=1):
            yield found[0]
            pfn = found[0] + unit_pages

    def _isolate(self, zone: Zone, pfn: int) -> list[Block]:
        """__isolate_free_page(), after which v12 restores the migratetype of the pageblock."""
        migratetype = zone.pageblock_migratetype(pfn)
        block = zone.isolate(pfn)
        if block is None:
            return []  # the watermark forbids it; the bit goes all the same
        if self.version == "v12":
            # As posted, of the first one; 6.12 has no half of a block on another type's list.
            end_pfn = pfn + 1 if self.guest.kernel == "5.0" else block.end_pfn
            for start in range(pfn, end_pfn, PAGEBLOCK_PAGES):
                zone.set_pageblock_migratetype(start, migratetype)
        return [block]

    def _clear(self, area: FreeArea, bitmap: UnitFlags, pfn: int) -> None:
        """clear_bit() and, but for v10 and a bitmap of its own, atomic_dec(&free_pages)."""
        cleared = bitmap.clear(pfn)
        if self.version != "v10" and not self.parameters.swap:
            area.free_pages.add(-cleared)

    async def _swap(self, area: FreeArea) -> UnitFlags:
        """Duyck's proposal: an empty bitmap for the frees, and a private one for the scan."""
        async with area.zones[0].lock:
            taken = area.bitmap
            area.bitmap, area.spare = area.spare, taken
            if self.version != "v10":
                area.free_pages.add(-taken.count)
        return taken

    async def _tell(self, isolated: list[Block]) -> None:
        """hint_pages(): tell the host, wait, and give the blocks back, told or not."""
        if self.version != "v10" or await self.guest.allocate_buffer(RESULT_BYTES):
            await self.guest.host.report(isolated)
        # v12 returns them in one go, all of one zone; v10 and v11 one by one.
        size = len(isolated) if self.version == "v12" else 1
        for at in range(0, len(isolated), size):
            async with isolated[at].zone.lock:
                for block in isolated[at : at + size]:
                    block.zone.put_back(block, tail=False, notify=False)
        isolated.clear()

    @hookimpl
    async def guest_stopping(self) -> None:
        """page_hinting_disable(): no more captures, and cancel_work_sync()."""
        self.enabled = self.pending = False
        if self.work is not None:
            await self.work.join()

    def claims(self) -> Claims:
        """A take of the lock for each bit; one to return in v12, one for each block in v11.

        v10 may find no memory for its request once the blocks are isolated: takes without a batch.
        """
        given = self.parameters
        takes = {"v11": (given.batch, given.batch), "v12": (given.batch, 1)}
        return Claims(
            min_order=given.order,
            liveness_bound_ns=1_000_000_000,
            in_flight_pages=given.batch << 10,
            lock_takes=takes.get(given.version),
            one_zone=given.version == "v12",
        )
