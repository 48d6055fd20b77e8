"""What the kernel itself does beside the tapes.

kcompactd, vmstat's decay, kswapd, direct reclaim, khungtaskd, and allocations that fail.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hintbench.core.allocation import would_do
from hintbench.core.constants import (
    FLAG_ATOMIC,
    FLAG_NORETRY,
    KERNEL_6_12,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_PAGES,
    RANK_TASK,
)
from hintbench.core.contexts import Step
from hintbench.core.highatomic import unreserve
from hintbench.kernel.compaction import Compaction, CompactionRun
from hintbench.kernel.draining import drain_all_pages
from hintbench.kernel.false_ooms import pages_in_hand, would_serve
from hintbench.kernel.gfp import gfp_of
from hintbench.kernel.kswapd import run_at
from hintbench.kernel.task_frees import TaskFrees

if TYPE_CHECKING:
    from hintbench.core.pcp import PerCpuPages
    from hintbench.core.vcpu import Vcpu
    from hintbench.core.zone import Zone
    from hintbench.guest.boot import Machine
    from hintbench.guest.guest import Guest
    from hintbench.kernel.kswapd import DrainOfAll, KswapdRun
    from hintbench.tasks.scheduler import Scheduler

VMSTAT_INTERVAL_NS = 1_000_000_000
VMSTAT_SKEW_NS = 12_000_000
"""round_jiffies() spreads the CPUs by three jiffies each (250 Hz)."""
REMOTE_PCP_TICKS = 3
"""pcp->expire: ticks of vmstat until a list for another node's zone is let go of."""
MAX_RECLAIM_RETRIES = 16
"""From mm/internal.h."""
HUNG_TASK_TIMEOUT_SECONDS = 120
"""sysctl_hung_task_timeout_secs."""
KSWAPD_RUN_NS = 1_125_000
"""From the wake-up until kswapd has ended a run and with it the boost.

balance_pgdat() gives a boosted run up after the first round that reclaims nothing, and there is
nothing to reclaim here; in the recorded guest of 4 vCPUs kswapd freed no page either. What takes
time is to get a busy CPU: half of a base slice, which is 0.75 ms times three for four CPUs
(sysctl_sched_base_slice of 6.12).
"""
KSWAPD_ROUND_NS = 20_000
"""Of that, what balance_pgdat() itself takes: one round that finds nothing to reclaim.

An estimate. Only for so long ZONE_RECLAIM_ACTIVE is set; a recording that shows a longer run, as
that of 4 vCPUs does once, is followed instead.
"""


class KernelThreads:
    """The kernel's own work in the background of one simulation."""

    def __init__(self, machine: Machine, guest: Guest, scheduler: Scheduler) -> None:
        self.machine = machine
        self.simulation = machine.simulation
        self.guest = guest
        self.scheduler = scheduler
        self.frees = TaskFrees(machine.simulation, guest, scheduler)
        self.stopped = False
        self.kswapd_awake: set[int] = set()
        self._kswapd_runs: Sequence[KswapdRun] = ()
        self._drains_for_itself = True
        self._nodes = sorted({zone.node for zone in machine.zones})
        self._several_nodes = len(self._nodes) > 1
        self._expires: dict[tuple[int, int], int] = {}
        self._seen: dict[tuple[int, int], tuple[int, ...]] = {}
        self.false_ooms = 0
        self.stalls = 0
        self.stall_ns = 0
        self.denied: dict[int, bool] = {}
        self._again: dict[int, int] = {}
        self.draining = False
        self.ooms = 0
        self.hung: Callable[[], Exception] = lambda: RuntimeError("the guest hangs")
        scheduler.reclaim = self.direct_reclaim
        scheduler.on_failure = self.allocation_failed
        scheduler.on_kswapd = self.wake_kswapd

    # -- kcompactd ------------------------------------------------------------------------------

    def compact(self, runs: Iterable[CompactionRun]) -> None:
        """Let kcompactd do what a recorded one did.

        Args:
            runs: what it did, and when.
        """
        compaction = Compaction(self.frees)
        end_ns = 0
        for run in runs:
            zone = self.simulation.zone_of(run.pfn)
            work = partial(self._compact, compaction, zone, run)
            # One thread goes from zone to zone. Runs that take longer than the recorded ones
            # have the next wait (`Compaction.start`).
            begin_ns = max(run.begin_ns, end_ns)
            self.simulation.schedule(begin_ns, RANK_TASK, run.cpus[0], work)
            end_ns = run.freed_ns[-1]

    def _compact(self, compaction: Compaction, zone: Zone, run: CompactionRun) -> None:
        if not self.stopped:
            compaction.start(zone, run)

    # -- vmstat ---------------------------------------------------------------------------------

    def start(self, ticks_ns: dict[int, list[int]] | None = None) -> None:
        """Start vmstat on every CPU: lists decay since 6.7, those of other nodes' zones expire.

        Args:
            ticks_ns: by CPU, when a recorded kernel's vmstat ran; None: once a second.
        """
        if self.machine.kernel < KERNEL_6_12 and not self._several_nodes:
            return
        now = self.simulation.clock.now
        for cpu in self.guest.cpus:
            if ticks_ns is not None:
                for at_ns in ticks_ns.get(cpu, []):
                    self._schedule(cpu, at_ns, False)
            else:
                self._schedule(cpu, now + VMSTAT_INTERVAL_NS + cpu * VMSTAT_SKEW_NS, True)

    def _schedule(self, cpu: int, at_ns: int, again: bool) -> None:
        self.simulation.schedule(at_ns, RANK_TASK, cpu, lambda: self._tick(cpu, again))

    def _tick(self, cpu: int, again: bool) -> None:
        """vmstat_update(): decay this CPU's lists; a work item only when there is work."""
        if self.stopped:
            return
        if again:
            self._schedule(cpu, self.simulation.clock.now + VMSTAT_INTERVAL_NS, True)
        work = []
        for pcp in self.simulation.vcpus[cpu].pcps:
            busy = self._several_nodes and self._has_changed(cpu, pcp)
            decayed = pcp.decay()
            if decayed > 0:
                work.append((pcp, decayed))
            expired = self._expire(cpu, pcp, decayed, busy) if self._several_nodes else 0
            if expired > 0:
                work.append((pcp, expired))
        if work:
            self.scheduler.spawn(self._decay(cpu, work), cpu, "vmstat", kernel=True)

    def _has_changed(self, cpu: int, pcp: PerCpuPages) -> bool:
        """Whether the CPU has used the zone since the last tick, as vm_stat_diff says."""
        return self._seen.get((cpu, pcp.zone.index)) != _use_of(pcp)

    def _expire(self, cpu: int, pcp: PerCpuPages, decayed: int, busy: bool) -> int:
        """The rest of refresh_cpu_vm_stats(): drain_zone_pages() of another node's idle list.

        Returns:
            Pages to drain: a batch in the third tick that finds the zone unused.
        """
        key = cpu, pcp.zone.index
        self._seen[key] = _use_of(pcp)
        left = pcp.count - decayed
        if busy:
            self._expires[key] = REMOTE_PCP_TICKS
        if self._expires.get(key, 0) == 0 or left == 0:
            return 0
        if pcp.zone.node == self.simulation.vcpus[cpu].node:
            self._expires[key] = 0
            return 0
        self._expires[key] -= 1
        return 0 if self._expires[key] else min(left, pcp.batch)

    async def _decay(self, cpu: int, work: list[tuple[PerCpuPages, int]]) -> None:
        for pcp, count in work:
            # decay_pcp_high() lets go of the lock after every batch.
            while count > 0:
                chunk = min(count, pcp.batch)
                await self.frees.drain(cpu, pcp, chunk)
                count -= chunk

    async def drain_in_interrupt(self, cpu: int, pcp: PerCpuPages) -> None:
        """free_pcppages_bulk() below a free in an interrupt, which made a list overflow."""
        await self.frees.drain(cpu, pcp, min(pcp.count, pcp.batch))

    # -- khungtaskd -----------------------------------------------------------------------------

    def watch_for_hung_tapes(self, before: tuple[int, ...] | None = None, seconds: int = 0) -> None:
        """khungtaskd: no tape has been able to go on for two virtual minutes.

        Background work goes on for ever, so that the event queue never runs dry.

        Args:
            before: the tapes' clocks a second ago, if none of them could go on.
            seconds: for how long that has been so.

        Raises:
            HintbenchError: what `hung` returns.
        """
        if self.stopped:
            return
        now = self.scheduler.processors.standstill()
        seconds = seconds + 1 if now is not None and now == before else 0
        if seconds >= HUNG_TASK_TIMEOUT_SECONDS:
            raise self.hung()
        self.simulation.schedule(
            self.simulation.clock.now + VMSTAT_INTERVAL_NS,
            RANK_TASK,
            0,
            lambda: self.watch_for_hung_tapes(now, seconds),
        )

    # -- pressure -------------------------------------------------------------------------------

    def wake_kswapd(self, cpu: int, node: int = -1) -> bool:
        """An allocation met a zone below its low watermark, or a fallback boosted one.

        Args:
            cpu: Whose allocation.
            node: Whose kswapd it wakes; -1 for that of every node.

        Returns:
            Whether one slept until now.
        """
        woken = [each for each in self._nodes if node in (-1, each)]
        woken = [each for each in woken if each not in self.kswapd_awake]
        now_ns = self.simulation.clock.now
        run = run_at(self._kswapd_runs, now_ns) if woken else None
        if run is None:
            begin_ns, end_ns = now_ns + KSWAPD_RUN_NS - KSWAPD_ROUND_NS, now_ns + KSWAPD_RUN_NS
        else:
            end_ns = run.end_ns
            begin_ns = max(run.begin_ns or end_ns - KSWAPD_ROUND_NS, now_ns)
        for each in woken:
            self.kswapd_awake.add(each)
            boosts: dict[int, int] = {}
            begin, end = self._begin_reclaim, self._end_reclaim
            self.simulation.schedule(begin_ns, RANK_TASK, cpu, partial(begin, each, boosts))
            self.simulation.schedule(end_ns, RANK_TASK, cpu, partial(end, each, boosts))
        return bool(woken)

    def reclaim(self, runs: Sequence[KswapdRun], drains: Sequence[DrainOfAll]) -> None:
        """Reclaim when a recorded kernel did, as far as that is known.

        Args:
            runs: when its kswapd ran, rising [virtual ns].
            drains: when somebody in need drained all lists; direct reclaim does so at no other
                time then, since it is for those who got some pages back that Linux does it.
        """
        self._kswapd_runs = runs
        self._drains_for_itself = False
        for drain in drains:
            self.simulation.schedule(
                drain.begin_ns, RANK_TASK, drain.cpu, partial(self._drain_all, drain.cpu)
            )

    def _drain_all(self, cpu: int) -> None:
        if not self.stopped:
            work = drain_all_pages(self, cpu)
            self.scheduler.spawn(work, cpu, "drain_all_pages", kernel=True)

    def _begin_reclaim(self, node: int, boosts: dict[int, int]) -> None:
        """balance_pgdat(): reads the boosts of its node's zones, set_reclaim_active()."""
        for zone in self.simulation.zones:
            if zone.node == node:
                boosts[zone.index] = zone.watermark_boost
                zone.reclaim_active = True

    def _end_reclaim(self, node: int, boosts: dict[int, int]) -> None:
        """Its end: nothing to reclaim in this model, but the boosts that it began with end."""
        self.kswapd_awake.discard(node)
        for zone in self.simulation.zones:
            if zone.node == node:
                zone.watermark_boost -= min(zone.watermark_boost, boosts.get(zone.index, 0))
                zone.reclaim_active = False

    def direct_reclaim(self, vcpu: Vcpu) -> Coroutine[Any, Any, None]:
        """__alloc_pages_slowpath() from where it may sleep; sets ``vcpu.woken`` to try again."""
        return self._direct_reclaim(vcpu)

    async def _direct_reclaim(self, vcpu: Vcpu) -> None:
        """Drain every CPU's lists, ask the strategy for what it holds, try again.

        The guest has no page cache, so reclaim finds nothing and should_reclaim_retry() gives up
        after one round: blocks in a strategy's hands are neither free nor reclaimable, which is
        the false OOM of the review. memory_low stands where shrinkers and, at the end, the OOM
        notifiers are called. The per-CPU lists are drained although Linux does so only after some
        progress, since real guests mostly make some; a replayed trace shows whether they were.
        """
        clock = self.simulation.clock
        costs = clock.costs
        began = clock.now
        rounds = 1 if vcpu.order > PAGE_ALLOC_COSTLY_ORDER else costs.reclaim_retries
        in_hand = False
        again = self._again.get(vcpu.number, 0) + 1 if vcpu.slow_path else 0
        self._again[vcpu.number] = again
        for attempt in range(rounds):
            self.guest.spend(costs.direct_reclaim_ns)
            await Step()
            if attempt == 0:
                await self._unreserve(vcpu, force=False)
                if self._drains_for_itself:
                    await drain_all_pages(self, vcpu.number)
            in_hand |= pages_in_hand(vcpu) > 0
            await self._memory_low(vcpu)
            # Woken for nothing so often, what is free may be in the reserve: that goes then.
            if again <= MAX_RECLAIM_RETRIES and self._would_do(vcpu):
                vcpu.woken = True
                break
            # What is in hand now, and not in the free lists, is why the allocation fails.
            self.denied[vcpu.number] = would_serve(vcpu)
            if attempt + 1 < rounds:
                await self.guest.sleep(costs.direct_reclaim_ns)
        if not vcpu.woken:
            vcpu.woken = await self._unreserve(vcpu, force=True)
        if vcpu.woken and in_hand:
            self.stalls += 1
            self.stall_ns += clock.now - began
        vcpu.slow_path += clock.now - began

    def _would_do(self, vcpu: Vcpu) -> bool:
        """Whether some zone could serve the allocation now."""
        for zone in vcpu.zonelist:
            if zone.number <= vcpu.highest_zone and would_do(zone, vcpu.order, vcpu.highest_zone):
                return True
        return False

    async def _unreserve(self, vcpu: Vcpu, *, force: bool) -> bool:
        """unreserve_highatomic_pageblock(): a pageblock of the reserve goes back, if there is one.

        Args:
            vcpu: Whose allocation is in need.
            force: Take the last one of a zone, too.
        """
        # 5.0 loses count: a page that was freed to the reserve may be drained after that has gone.
        least = PAGEBLOCK_PAGES
        if force:
            least = 0 if self.machine.kernel >= KERNEL_6_12 else -1
        for zone in vcpu.zonelist:
            if zone.number <= vcpu.highest_zone and zone.reserved_highatomic > least:
                await zone.lock.acquire()
                moved: bool = unreserve(zone, vcpu.migratetype)
                zone.lock.release()
                if moved:
                    return True
        return False

    async def _memory_low(self, vcpu: Vcpu) -> None:
        point: Any = self.guest.hooks.memory_low
        if point is None:
            return
        for zone in vcpu.zonelist:
            if zone.number <= vcpu.highest_zone:
                with self.scheduler.as_hook("memory_low"):
                    waiting = point.function(self.guest, zone)
                    if waiting is not None:
                        await waiting

    def allocation_failed(self, vcpu: Vcpu) -> None:
        """A false OOM is a blocking allocation that blocks in hand would have served."""
        flags = vcpu.flags
        if flags & (FLAG_ATOMIC | FLAG_NORETRY):
            return
        self.ooms += 1
        if self.denied.get(vcpu.number, False):
            self.false_ooms += 1
            self.guest.violate(
                "no-false-oom",
                f"an allocation of order {vcpu.order} ({gfp_of(flags)}) fails while the strategy"
                f" holds {pages_in_hand(vcpu)} pages",
            )


def _use_of(pcp: PerCpuPages) -> tuple[int, ...]:
    """What allocations, frees, refills and drains change."""
    return pcp.count, pcp.free_count, pcp.alloc_factor, pcp.high
