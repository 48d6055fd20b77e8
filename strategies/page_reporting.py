"""page-reporting: free page reporting as Linux has it since 5.7; here as in 6.12.95.

What it tracks: the flag Reported of each free block (PG_uptodate on its head), set when the host
    has acknowledged it and its return did not merge; a block that leaves its free list, by
    allocation, split or merge, loses it. No list of candidates: a pass walks the free lists.
When it reports: `delay_ns` after the first free that ends, merged, as a block of `order` or more,
    one work item for the whole guest, in three states: idle, requested, active. It skips zones
    that are close to their low watermark. From each list it takes unreported blocks, tells the
    host of `capacity` at a time and waits, for at most a sixteenth of the list; where that budget
    ends it asks for another pass. What it has not looked at goes to the head of the list.
What it holds: up to `capacity` isolated blocks of one zone, of any order, 128 MiB by default. It
    puts them back at the tails of their lists, so that they are taken last, and unnotified.
    5.7 to 5.9 put them back at the heads (`tail=false`), where they are taken first.
Whose idea: Alexander Duyck, "[PATCH v17 0/9] mm / virtio: Provide support for free page
    reporting", 2020-02-11; mm/page_reporting.c. `flush`: Michael S. Tsirkin's series of 2026.
Known defects:
    * freed pages that do not merge to `order`, because a neighbour lies on a per-CPU list, are
      not told, and what a huge page leaves on its per-CPU list neither;
    * a reported block that merges or is split is reported again;
    * only a free of a large block asks for a pass: what a split leaves over on a list that the pass
      has behind it waits for the next one;
    * after an error of the host, or without memory for the scatter list, the pass ends, and nothing
      asks for another until the next free;
    * a blocking allocation can fail while up to `capacity` blocks are in flight.
    Otherwise 5.7 to 6.12 do the same; `order` can be set since 5.14, before it was pageblock_order.
    Not modelled: what changes `order` while the guest runs (the parameter's mode is 0644), the
    drift of NR_FREE_PAGES (zone_watermark_ok() does not add what is still counted per CPU, up to
    125 pages of each), that virtio_balloon refuses a queue of fewer entries than `capacity`
    (-ENOSPC), and that its device cannot refuse a report: QEMU acknowledges what it does not
    discard, too (that is `discard=false` of the host; a report that fails is Hyper-V's).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from hintbench import Claims, HookFilter, Migratetype, Strategy, hookimpl

if TYPE_CHECKING:
    from hintbench import Block, Guest, Task, Zone

SCATTERLIST_BYTES = 32
"""sizeof(struct scatterlist) on x86-64 with CONFIG_NEED_SG_DMA_LENGTH."""
MAX_PAGE_ORDER = 10
_MIGRATETYPES = tuple(Migratetype)
BUDGET_SHARE = 16
"""A pass makes calls for at most this part of a list, plus one."""


class State(Enum):
    """The states of the one work item; PAGE_REPORTING_IDLE and so on."""

    IDLE = 0
    REQUESTED = 1
    ACTIVE = 2


class PageReporting(Strategy):
    """Linux's free page reporting: a pass over the free lists, 2 s after a large free."""

    name = "page-reporting"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """What the kernel has as constants, as a module parameter, and as a proposal."""

        order: int = Field(
            9,
            ge=0,
            le=10,
            description="smallest block told [order]; module parameter page_reporting_order,"
            " pageblock_order unless set",
        )
        delay_ns: int = Field(
            2_000_000_000,
            ge=0,
            le=60_000_000_000,
            description="from the request to the pass [ns]; PAGE_REPORTING_DELAY, which the"
            " kernel's timers make a little longer; 0 is run to completion, as v12 to v14 did",
        )
        capacity: int = Field(
            32, ge=1, le=1024, description="blocks per call of the host; PAGE_REPORTING_CAPACITY"
        )
        tail: bool = Field(
            True,
            description="whether reported blocks go to the tails of their lists, as since 5.10"
            " (47b6a24a2382); false: to the heads, as in 5.7 to 5.9",
        )
        flush: bool = Field(
            False,
            description="start at once, and let a pass go on until nothing is left to tell, as a"
            " write to the module parameter flush of the 2026 series does",
        )

    parameters: Parameters
    check_parameters: ClassVar[Mapping[str, Any]] = {"delay_ns": 0, "capacity": 2}
    declared_failures: Mapping[str, str] = {
        "no-false-oom": "nothing makes an allocation wait for the blocks that are being reported",
        "liveness": "only __free_one_page() notifies (mm/page_reporting.c): a block that is split"
        " while a pass is beyond its halves' list, or that a pass without memory for its scatter"
        " list leaves (goto err_out, state idle), waits for the next free of a large block",
    }

    # -- page_reporting_register() and page_reporting_unregister() ------------------------------

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """page_reporting_register(): begin the initial flush, then let frees notify."""
        self.guest, self.registered = guest, True
        self.state = guest.atomic(State.IDLE)
        self.work: Task | None = None
        self.told = 0  # blocks acknowledged
        self.reported = guest.flags(
            "Reported", order=self.parameters.order, meaning="told", forget="taken"
        )
        if guest.discarded_at_start:
            # It has been through its first passes.
            for zone in guest.zones:
                with zone.lock:
                    blocks = zone.free_blocks(max(self.parameters.order, 9))
                for block in blocks:
                    self.reported.set(block.pfn, block.order)
            return
        self._request(guest.cpus[0], 0 if self.parameters.flush else self.parameters.delay_ns)

    @hookimpl
    async def guest_stopping(self) -> None:
        """page_reporting_unregister(): no more requests, cancel_delayed_work_sync()."""
        self.registered = False
        if self.work is not None and not self.work.cancel():
            await self.work.join()

    # -- notify and request ---------------------------------------------------------------------

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """page_reporting_notify_free(): the allocator compares the order, the rest is a call."""
        return {"block_freed": HookFilter(min_order=self.parameters.order)}

    @hookimpl
    def block_freed(self, cpu: int) -> None:
        """__page_reporting_notify(): a block of the reporting order has come to be."""
        if self.registered:
            self._request(cpu, self.parameters.delay_ns)

    def _request(self, cpu: int, delay_ns: int) -> None:
        """__page_reporting_request(): a delayed pass, unless one is under way or asked for."""
        if self.state.read() is State.REQUESTED:
            return
        if self.state.exchange(State.REQUESTED) is State.IDLE:
            self._queue_delayed_work(cpu, delay_ns)

    def _queue_delayed_work(self, cpu: int, delay_ns: int) -> None:
        """The timer, and after it the work item, are those of the CPU that asked for them."""
        self.work = self.guest.spawn(
            self._process(), cpu=cpu, name="page_reporting_process", delay_ns=delay_ns
        )

    # -- a pass ---------------------------------------------------------------------------------

    async def _process(self) -> None:
        """page_reporting_process(): one pass over all zones, then idle or another delay."""
        self.guest.mark("page_reporting_process")
        self.state.set(State.ACTIVE)
        told_before = self.told
        if await self.guest.allocate_buffer(self.parameters.capacity * SCATTERLIST_BYTES):
            for zone in self.guest.zones:
                if not await self._process_zone(zone):
                    break
        before = self.state.compare_exchange(State.ACTIVE, State.IDLE)
        if before is State.REQUESTED and self.registered:
            hurry = self.parameters.flush and self.told > told_before
            self._queue_delayed_work(self.guest.cpu, 0 if hurry else self.parameters.delay_ns)

    async def _process_zone(self, zone: Zone) -> bool:
        """page_reporting_process_zone(): every list from the lowest order on; False on error."""
        given = self.parameters
        # low_wmark_pages() counts the boost.
        mark = zone.watermark_low + zone.watermark_boost + (given.capacity << given.order)
        if not zone.watermark_ok(mark):
            return True
        sgl: list[Block] = []  # the scatter list, which the kernel fills from its end
        for order in range(given.order, MAX_PAGE_ORDER + 1):
            for migratetype in _MIGRATETYPES:
                # page_reporting_cycle() looks that way first: without the lock, for nothing.
                if zone.list_empty(order, migratetype):
                    continue
                if not await self._cycle(zone, order, migratetype, sgl):
                    return False
        if not sgl:
            return True
        acknowledged = await self._report(sgl)
        async with zone.lock:
            self._drain(zone, sgl, acknowledged)
        return acknowledged

    async def _cycle(self, zone: Zone, order: int, migratetype: int, sgl: list[Block]) -> bool:
        """page_reporting_cycle(): one list; what does not fill the scatter list stays in it."""
        capacity, acknowledged = self.parameters.capacity, True
        await zone.lock.acquire()
        budget = -(-zone.nr_free[order] // (capacity * BUDGET_SHARE))
        rest: Block | None = None  # where the next search is to begin
        while acknowledged and rest is None:
            # So many unreported blocks as there is room for, and the one behind them.
            room = capacity - len(sgl)
            found = zone.free_list(order, migratetype, without=self.reported, limit=room + 1)
            if found and budget < 0:
                self.state.set(State.REQUESTED)
                rest = found[0]
                break
            rest = self._isolate(zone, found[:room], sgl)
            if rest is not None or len(found) <= room:
                break
            zone.rotate_to_front(found[room])
            zone.lock.release()
            acknowledged = await self._report(sgl)
            budget -= 1
            await zone.lock.acquire()
            self._drain(zone, sgl, acknowledged)
        if rest is not None:
            zone.rotate_to_front(rest)
        zone.lock.release()
        return acknowledged

    def _isolate(self, zone: Zone, blocks: list[Block], sgl: list[Block]) -> Block | None:
        """Move blocks to the scatter list; the first that the min watermark forbids to take."""
        for block in blocks:
            if zone.isolate(block.pfn) is None:
                return block
            sgl.insert(0, block)
        return None

    async def _report(self, sgl: list[Block]) -> bool:
        """virtballoon_free_page_report(): add the buffers, kick, wait for the acknowledgement."""
        acknowledged = await self.guest.host.report(sgl)
        self.told += len(sgl) if acknowledged else 0
        return acknowledged

    def _drain(self, zone: Zone, sgl: list[Block], acknowledged: bool) -> None:
        """page_reporting_drain(): put back, mostly at the tail; flag what stayed as it was."""
        for block in sgl:
            order = zone.put_back(block, tail=self.parameters.tail, notify=False)
            if acknowledged and order == block.order:
                self.reported.set(block.pfn, order)
        sgl.clear()

    def claims(self) -> Claims:
        """A sixteenth of each list per pass; one take a list to isolate, one to put back."""
        given = self.parameters
        return Claims(
            min_order=given.order,
            # The timer is up to an eighth late; a pass itself takes part of a second.
            liveness_bound_ns=(BUDGET_SHARE + 2) * (given.delay_ns * 9 // 8 + 500_000_000),
            initial_flush=True,
            in_flight_pages=given.capacity << MAX_PAGE_ORDER,
            lock_takes=(1, 1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )
