"""A base that calls the host from the freeing thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl
from hintbench.testing.mutants.bases.worker import MIN_ORDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hintbench import Guest, Zone


class Synchronous(Strategy):
    """Calls the host for every unit before the allocator has it: freed whole, or just merged."""

    name = "base-synchronous"

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """No call is under way."""
        self.guest, self.calls, self.stopping = guest, 0, False
        self.ended = guest.event()

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Smaller blocks are told when they have merged."""
        narrow = HookFilter(min_order=MIN_ORDER)
        return {"page_freeing": narrow, "block_merged": narrow}

    @hookimpl
    def page_freeing(self, pfn: int, order: int) -> Any:
        """The caller is freeing it, so it is nobody else's."""
        return None if self.stopping else self.call(pfn, order)

    @hookimpl
    def block_merged(self, zone: Zone, pfn: int, order: int) -> Any:
        """Once for every unit; what merges further has been told."""
        return None if self.stopping or order != MIN_ORDER else self.merged(zone, pfn)

    async def merged(self, zone: Zone, pfn: int) -> None:
        """It is on no list now: the lock may go while the host works."""
        zone.lock.release()
        await self.call(pfn, MIN_ORDER)
        await zone.lock.acquire()

    async def call(self, pfn: int, order: int) -> None:
        """The vCPU is out of the guest until the memory is gone."""
        self.calls += 1
        await self.guest.host.hypercall([Block(pfn, order, self.guest.zone_of(pfn))])
        self.calls -= 1
        self.ended.set()

    @hookimpl
    async def guest_stopping(self) -> None:
        """Make no more calls, and wait for those of interrupts and kernel threads."""
        self.stopping = True
        while self.calls:
            await self.ended.wait()

    def claims(self) -> Claims:
        """All that is freed in units, or becomes one, is told at once."""
        return Claims(min_order=MIN_ORDER, liveness_bound_ns=1_000_000, one_zone=True, once=True)
