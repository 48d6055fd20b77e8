"""What the interrupts of explored runs do to the allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hintbench.core.bulk import free_block, hand_out, hand_out_to_hook, take_block, take_pages
from hintbench.core.constants import (
    EVENT_ALLOCATED,
    EVENT_FREED,
    IN_USE,
    TRANSIT,
)
from hintbench.core.contexts import KERNEL

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.testing.runs.explored import ExploredRun

LARGE: Final = 9
"""The order of the block that an interrupt uses for a moment, that of a huge page."""


class Interrupts:
    """The handlers; each runs on the CPU that it is given, with interrupts off.

    Args:
        run: the run they happen in.
    """

    def __init__(self, run: ExploredRun) -> None:
        self._run = run
        self._kept = -1

    async def drain(self, cpu: int, batches: int) -> None:
        """What a device's interrupt does to the allocator: it frees, and lists overflow."""
        for pcp in self._run.machine.simulation.vcpus[cpu].pcps:
            while pcp.count and batches:
                batches -= 1
                await self._run.threads.drain_in_interrupt(cpu, pcp)

    async def refill(self, cpu: int, pages: int, zone: Any = None) -> None:
        """A network device's interrupt refills its ring: alloc_pages_bulk(GFP_ATOMIC).

        The pages come straight from the free lists, under one take of the lock, and are kept. The
        hook may spin for each, but on this CPU nothing else goes on until the interrupt ends:
        neither tasks nor other interrupts.

        Args:
            cpu: where.
            pages: how many, if there are so many.
            zone: whose; None: the one with most free memory.
        """
        self._pay()
        simulation: Any = self._run.machine.simulation
        zone = zone if zone is not None else self._largest()
        await zone.lock.acquire()
        taken = take_pages(simulation, zone, cpu, pages)
        zone.lock.release()
        # What a hook does from here on is not done under this take.
        await self._run.guest.step()
        at = 0
        while (at := hand_out_to_hook(simulation, cpu, taken, at)) < len(taken):
            await self._call("page_allocated", cpu, taken[at], 0)
            hand_out(simulation, cpu, taken[at])
            at += 1

    async def slab_page(self, cpu: int) -> None:
        """Not an interrupt: kmalloc() of the running context finds its slab empty and takes a page.

        Args:
            cpu: where.
        """
        context = self._run.scheduler.current
        payer = None if context is None else context.payer
        await self.refill(cpu, 1)
        if context is not None and payer is not None:
            context.payer = payer

    async def borrow(self, cpu: int, zone: Any = None) -> None:
        """A softirq at the end of an interrupt takes a large block (GFP_ATOMIC), and frees it.

        Args:
            cpu: where.
            zone: whose; None: the one with most free memory.
        """
        pfn = await self._take_large(cpu, zone or self._largest())
        if pfn >= 0:
            await self._free_large(cpu, pfn)

    async def exchange(self, cpu: int) -> None:
        """A softirq takes a large block (GFP_ATOMIC), and frees the one that it took last.

        What it frees is none that has just been freed, as that which `borrow` finds on top of a
        list is.

        Args:
            cpu: where.
        """
        taken = await self._take_large(cpu, self._largest())
        freed, self._kept = self._kept, taken
        if freed >= 0:
            await self._free_large(cpu, freed)

    async def _take_large(self, cpu: int, zone: Any) -> int:
        """A block of order `LARGE`, in use; -1 where memory is short."""
        run, simulation = self._run, self._run.machine.simulation
        self._pay()
        await zone.lock.acquire()
        spare = zone.free_pages > zone.watermark_low + zone.watermark_boost + (1 << LARGE)
        pfn = take_block(simulation, zone, cpu, LARGE) if spare else -1
        zone.lock.release()
        if pfn >= 0:
            await run.guest.step()
            await self._hand_out(cpu, pfn, LARGE)
        return int(pfn)

    async def _free_large(self, cpu: int, pfn: int) -> None:
        """Free such a block."""
        run, clock = self._run, self._run.machine.clock
        zone: Any = run.guest.zone_of(pfn)
        self._pay()
        clock.digest.record(clock.now, cpu, EVENT_FREED, pfn, LARGE)
        run.machine.pages.state[pfn] = TRANSIT | LARGE
        if self._concerns("page_freeing", pfn, LARGE):
            await self._call("page_freeing", cpu, pfn, LARGE)
        await zone.lock.acquire()
        free_block(run.machine.simulation, zone, cpu, pfn, LARGE)
        since_ns = zone.lock.requested_ns
        zone.lock.release()
        await run.guest.step()
        hooks: Any = run.guest.hooks
        if hooks.free_completed is not None:
            await self._call("free_completed", cpu, since_ns=since_ns)

    def _pay(self) -> None:
        """The kernel's own code: its takes of the lock are none of the strategy's."""
        context = self._run.scheduler.current
        if context is not None:
            context.payer = KERNEL

    def _largest(self) -> Zone:
        """The zone with most free memory."""
        return max(self._run.guest.zones, key=lambda zone: int(zone.free_pages))

    def _concerns(self, name: str, pfn: int, order: int) -> bool:
        """Whether the strategy is to hear of a block."""
        point: Any = getattr(self._run.guest.hooks, name)
        if point is None or point.min_order > order:
            return False
        return point.flags is None or bool(point.flags.any(pfn, order))

    async def _call(self, name: str, cpu: int, *block: int, since_ns: int = 0) -> None:
        """Call a hook that may spin."""
        guest = self._run.guest
        with self._run.scheduler.as_hook(name, since_ns):
            waiting = getattr(guest.hooks, name).function(guest, cpu, *block)
            if waiting is not None:
                await waiting

    async def _hand_out(self, cpu: int, pfn: int, order: int) -> None:
        """post_alloc_hook() in an interrupt: arch_alloc_page(), and the caller has the block."""
        if self._concerns("page_allocated", pfn, order):
            await self._call("page_allocated", cpu, pfn, order)
        clock = self._run.machine.clock
        for flags in self._run.guest.hooks.forget_when_allocated:
            flags.clear(pfn, order)
        clock.digest.record(clock.now, cpu, EVENT_ALLOCATED, pfn, order)
        self._run.machine.pages.state[pfn] = IN_USE | order
