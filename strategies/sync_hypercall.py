"""sync-hypercall: tell the host on free, and wait for it.

What it tracks: nothing; not even what it has told.
When it reports: at once, in the freeing thread. A freed unit of `order` or more is told before it
    goes to any list (arch_free_page). What is freed in smaller pieces is told by the free with
    which the merge loop reaches `order` exactly (arch_merge_page), so once per 2 MiB however it
    came together; merges above that say nothing.
What it holds: the one block that is being freed, which is on no list. For a merged one the loop
    lets go of the zone lock, calls, takes it again, and looks for the next buddy afresh.
Whose idea: Alexander Duyck, "[RFC PATCH 0/4] kvm: Report unused guest pages to host", 2019-02-04.
Known defects:
    * the freeing vCPU is out of the guest for the whole discard, with interrupts off in a merge;
    * a huge page that is freed to a per-CPU list, and handed out again next, has been discarded;
    * what was free before the guest had the patch is never told, and a block that is split and
      merged again is told again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from hintbench import Guest, Zone


class SyncHypercall(Strategy):
    """Duyck's first RFC: each large block that is freed, or merges, is told by a hypercall."""

    name = "sync-hypercall"

    class Parameters(BaseModel, extra="forbid", frozen=True):
        """The unit."""

        order: int = Field(
            9,
            ge=0,
            le=10,
            description="smallest block told, and the one that a merge tells [order];"
            " KVM_PV_UNUSED_PAGE_HINT_MIN_ORDER, that of a huge page",
        )

    parameters: Parameters

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Remember the guest; no call is under way."""
        self.guest, self.stopping, self.calls = guest, False, 0
        self.ended = guest.event()

    @hookimpl
    async def guest_stopping(self) -> None:
        """Tell no more, and wait for calls of interrupts and kernel threads."""
        self.stopping = True
        while self.calls:
            await self.ended.wait()

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Both functions compare the order first, in line."""
        large = HookFilter(min_order=self.parameters.order)
        return {"page_freeing": large, "block_merged": large}

    @hookimpl
    async def page_freeing(self, pfn: int, order: int) -> None:
        """arch_free_page(): KVM_HC_UNUSED_PAGE_HINT for the whole unit; it is on no list yet."""
        if not self.stopping:
            await self._call(Block(pfn, order, self.guest.zone_of(pfn)))

    @hookimpl
    def block_merged(self, zone: Zone, pfn: int, order: int) -> Coroutine[None, None, None] | None:
        """arch_merge_page(): only where the merge reaches the order."""
        if self.stopping or order != self.parameters.order:
            return None
        return self._tell(Block(pfn, order, zone))

    async def _tell(self, block: Block) -> None:
        """Drop the zone lock for the call; the block is on no list, so nobody can take it."""
        block.zone.lock.release()
        await self._call(block)
        await block.zone.lock.acquire()

    async def _call(self, block: Block) -> None:
        """The vCPU is out of the guest until the memory is gone."""
        self.calls += 1
        await self.guest.host.hypercall([block])
        self.calls -= 1
        if self.stopping:
            self.ended.set()

    def claims(self) -> Claims:
        """Nothing waits, nothing is kept, and a batch is one block."""
        order = self.parameters.order
        return Claims(
            min_order=order, liveness_bound_ns=1_000_000_000, lock_takes=(0, 1), one_zone=True
        )
