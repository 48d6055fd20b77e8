"""Frees by the kernel's own threads: drains of per-CPU lists, and single blocks.

They run the code that frees of the tapes run, as tasks that wait for the zone's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import PCP_BATCH_SCALE_MAX
from hintbench.core.freeing import check_below_high, run_drain
from hintbench.core.migration import concerns_hook, free_to_pcp, run_direct_free
from hintbench.core.pcp import pcp_keeps
from hintbench.core.vcpu import Drain

if TYPE_CHECKING:
    from hintbench.core.pcp import PerCpuPages
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone
    from hintbench.guest.guest import Guest
    from hintbench.tasks.scheduler import Scheduler


class TaskFrees:
    """What tasks free.

    Args:
        simulation: The core's state.
        guest: Whose hooks hear of it.
        scheduler: Runs the tasks.
    """

    def __init__(self, simulation: Simulation, guest: Guest, scheduler: Scheduler) -> None:
        self.simulation = simulation
        self.guest = guest
        self.scheduler = scheduler

    async def drain(self, cpu: int, pcp: PerCpuPages, count: int) -> None:
        """free_pcppages_bulk() of so many pages, from the first list on.

        Args:
            cpu: Where the task runs.
            pcp: The lists, perhaps another CPU's.
            count: Pages.
        """
        drain = Drain()
        zone: Any = pcp.zone
        await zone.lock.acquire()
        drain.begin(pcp, count, 0)
        while not run_drain(self.simulation, drain):
            await self._merge_on(zone, drain)
        zone.lock.release()
        point: Any = self.guest.hooks.free_completed
        if point is not None:
            await self._complete(cpu, zone, point)

    async def drain_all_of(self, cpu: int, zone: Zone, owner: int) -> None:
        """drain_pages_zone(): all that a CPU's lists have of a zone.

        Args:
            cpu: Where the task runs.
            zone: Which zone.
            owner: Whose lists.
        """
        pcp = self.simulation.vcpus[owner].pcps[zone.index]
        while pcp.count > 0:
            await self.drain(cpu, pcp, min(pcp.count, pcp.batch << PCP_BATCH_SCALE_MAX))

    async def hand_out(self, cpu: int, pfn: int, order: int) -> None:
        """post_alloc_hook() of a block that no list has.

        Args:
            cpu: Where the task runs.
            pfn: The block's first page.
            order: Its order.
        """
        await self._tell("page_allocated", self.guest.hooks.page_allocated, cpu, pfn, order)
        for flags in self.guest.hooks.forget_when_allocated:
            flags.clear(pfn)

    async def prepare(self, cpu: int, pfn: int, order: int) -> None:
        """free_pages_prepare(): the block is no longer in use.

        Args:
            cpu: Where the task runs.
            pfn: The block's first page.
            order: Its order.
        """
        await self._tell("page_freeing", self.guest.hooks.page_freeing, cpu, pfn, order)

    async def free(self, cpu: int, zone: Zone, pfn: int, order: int) -> None:
        """__free_pages() of a block in transit: to this CPU's list, or straight to the zone.

        Args:
            cpu: Where the task runs.
            zone: The block's.
            pfn: Its first page.
            order: Its order.
        """
        await self.prepare(cpu, pfn, order)
        drain = Drain()
        if not pcp_keeps(self.simulation.kernel, order):
            self.guest.spend(self.guest.costs.direct_path_ns)
            await self._under_lock(
                cpu,
                zone,
                drain,
                lambda: run_direct_free(self.simulation, zone, drain, pfn, order),
            )
            return
        pcp = self.simulation.vcpus[cpu].pcps[zone.index]
        if free_to_pcp(self.simulation, pcp, pfn, order, drain):
            await self._under_lock(cpu, zone, drain, lambda: run_drain(self.simulation, drain))
            check_below_high(self.simulation, zone)

    async def _tell(self, name: str, point: Any, cpu: int, pfn: int, order: int) -> None:
        if concerns_hook(self.simulation, point, pfn, order):
            with self.scheduler.as_hook(name):
                waiting = point.function(self.guest, cpu, pfn, order)
                if waiting is not None:
                    await waiting

    async def _under_lock(
        self, cpu: int, zone: Any, drain: Drain, go_on: Callable[[], bool]
    ) -> None:
        """Free under the zone's lock; a ``block_merged`` hook may drop it in between."""
        await zone.lock.acquire()
        while not go_on():
            await self._merge_on(zone, drain)
        zone.lock.release()
        point: Any = self.guest.hooks.free_completed
        if point is not None:
            await self._complete(cpu, zone, point)

    async def _merge_on(self, zone: Any, drain: Drain) -> None:
        """A ``block_merged`` hook waits in the middle of a merge, without the lock perhaps."""
        dropped: Any = drain.waiting
        with self.scheduler.as_hook("block_merged", zone.lock.requested_ns) as context:
            await dropped
            if not zone.lock.held_here:
                self.scheduler.rules.lock_lost(context)

    async def _complete(self, cpu: int, zone: Any, point: Any) -> None:
        """The lock has been let go of: the ``free_completed`` hook."""
        with self.scheduler.as_hook("free_completed", zone.lock.requested_ns):
            waiting = point.function(self.guest, cpu)
            if waiting is not None:
                await waiting
