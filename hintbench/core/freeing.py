"""How a vCPU frees: __free_pages_prepare(), the per-CPU lists, drains, and the direct path."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        EVENT_FREED,
        EVENT_LOCKED,
        EVENT_RETURNED,
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_PAGE_ORDER,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PCP_DRAIN,
        ORIGIN_SPLIT,
        PAGEBLOCK_ORDER,
        SLOT_EMPTY,
        SLOT_FAILED,
        TRANSIT,
        ZONE_MOVABLE,
    )
    from cython.cimports.hintbench.core.handover import wait_for_slot
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.pcp import PerCpuPages, pcp_allowed, pcp_index
    from cython.cimports.hintbench.core.simulation import (
        Simulation,
        change_used,
        log_event,
        requeue_at,
    )
    from cython.cimports.hintbench.core.vcpu import (
        COMMIT_FREE,
        DIRECT_AGAIN,
        DIRECT_FREE,
        DONE,
        DRAIN,
        DRAIN_AGAIN,
        READY,
        Drain,
        Vcpu,
    )
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        EVENT_FREED,
        EVENT_LOCKED,
        EVENT_RETURNED,
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_PAGE_ORDER,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PCP_DRAIN,
        ORIGIN_SPLIT,
        PAGEBLOCK_ORDER,
        SLOT_EMPTY,
        SLOT_FAILED,
        TRANSIT,
        ZONE_MOVABLE,
    )
    from hintbench.core.handover import wait_for_slot
    from hintbench.core.hooks import HookPoint
    from hintbench.core.pcp import PerCpuPages, pcp_allowed, pcp_index
    from hintbench.core.simulation import (
        Simulation,
        change_used,
        log_event,
        requeue_at,
    )
    from hintbench.core.vcpu import (
        COMMIT_FREE,
        DIRECT_AGAIN,
        DIRECT_FREE,
        DONE,
        DRAIN,
        DRAIN_AGAIN,
        READY,
        Drain,
        Vcpu,
    )
    from hintbench.core.zone import Zone

_LARGEST_BULK = cython.declare(cython.longlong, 4095)


@cython.cfunc
def begin_free(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """FREE: empty the slot; page_freeing fires before the page goes anywhere."""
    pfn: cython.int = sim.slots[vcpu.slot]
    order: cython.int
    begun: cython.longlong
    if pfn < 0:
        if pfn == SLOT_FAILED:
            sim.slots[vcpu.slot] = SLOT_EMPTY
            vcpu.position += 1
            sim.clock.now += sim.clock.costs.pcp_free_ns
            return end_free(sim, vcpu)
        return wait_for_slot(sim, vcpu)
    vcpu.position += 1
    sim.slots[vcpu.slot] = SLOT_EMPTY
    order = sim.pages.state[pfn] & ORDER_MASK
    vcpu.pfn = pfn
    vcpu.order = order
    log_event(sim, sim.clock.now, vcpu.number, EVENT_FREED, pfn, order)
    sim.frees += 1
    sim.pages.state[pfn] = TRANSIT | order
    leave_user(sim, pfn, order)
    if sim.hooks.page_freeing is not None and sim.test_hook(sim.hooks.page_freeing, pfn, order):
        point: HookPoint = sim.hooks.page_freeing
        begun = point.begin(sim.clock)
        coroutine = point.function(sim.hooks.guest, vcpu.number, pfn, order)
        point.end(sim.clock, begun)
        if coroutine is not None and not sim.call_waiting_hook(
            vcpu, coroutine, point.name, COMMIT_FREE
        ):
            return 0
    return commit_free(sim, vcpu)


@cython.cfunc
def leave_user(sim: Simulation, pfn: cython.int, order: cython.int) -> cython.int:
    """The guest no longer uses the block: what the host backs of it is *retained* from now on."""
    now: cython.longlong = sim.clock.now
    if order == 0:
        if sim.backing.is_backed(pfn):
            change_used(sim, now, -1)
    else:
        change_used(sim, now, -sim.backing.backed_block(pfn, order))
    if sim.claim_freed and order >= sim.claim_order:
        # The oracle's zero-time service.
        sim.backing.claim(pfn, order)
    return 0


@cython.cfunc
def commit_free(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """free_unref_page(): onto this CPU's list, or straight to the buddy allocator."""
    pfn: cython.int = vcpu.pfn
    order: cython.int = vcpu.order
    migratetype: cython.int
    count: cython.longlong
    if not pcp_allowed(sim.kernel, order):
        sim.clock.now += sim.clock.costs.direct_path_ns
        vcpu.phase = DIRECT_FREE
        return requeue_at(sim, vcpu.number, sim.clock.now)
    pcp: PerCpuPages = cython.cast(PerCpuPages, vcpu.pcps[sim.zone_indices[pfn >> MAX_PAGE_ORDER]])
    sim.clock.now += sim.clock.costs.pcp_free_ns
    migratetype = pcp.type_of_freed(pfn)
    pcp.alloc_factor >>= 1
    pcp.push(pfn, order, migratetype)
    count = pcp.to_drain(order)
    if count > 0:
        vcpu.drain.begin(pcp, count, pcp_index(sim.kernel, order, migratetype))
        vcpu.phase = DRAIN
        return requeue_at(sim, vcpu.number, sim.clock.now)
    return end_free(sim, vcpu)


@cython.ccall
def run_drain(sim: Simulation, drain: Drain) -> cython.bint:
    """Free the pages of a drain under the zone lock, which the caller holds.

    Returns:
        False when a ``block_merged`` hook wants to drop the lock: ``drain.waiting`` is its
        coroutine, and once that has ended and holds the lock again the drain goes on here.
    """
    zone: Zone = drain.pcp.zone
    pfn: cython.int
    migratetype: cython.int
    size: cython.longlong
    if drain.waiting is not None:
        drain.resume_merge(zone, ORIGIN_PCP_DRAIN, drain.pfn, drain.order)
        if drain.waiting is not None:
            return False
    while True:
        pfn = drain.next_pfn()
        if pfn < 0:
            break
        sim.drained_by_order[drain.order] += 1
        log_event(sim, sim.clock.now, sim.clock.cpu, EVENT_RETURNED, pfn, drain.order)
        migratetype = sim.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        if sim.kernel < KERNEL_6_12:
            # 5.0 kept the type on the page (get_pcppage_migratetype()): mostly that of the list.
            migratetype = drain.pindex
            if zone.recorded_highatomic and pfn in zone.recorded_highatomic:
                zone.recorded_highatomic.discard(pfn)
                migratetype = HIGHATOMIC
        zone.free_one_page(pfn, drain.order, migratetype, False, ORIGIN_PCP_DRAIN)
        if zone.waiting is not None:
            drain.keep_merge(zone)
            return False
    size = drain.drained
    if size > _LARGEST_BULK:
        size = _LARGEST_BULK
    sim.drains[size] += 1
    return True


@cython.ccall
def check_below_high(sim: Simulation, zone: Zone) -> cython.int:
    """The end of free_unref_page_commit(): ZONE_BELOW_HIGH goes when the zone has recovered."""
    if zone.below_high and zone.meets(
        0, zone.watermark_high + zone.watermark_boost, ZONE_MOVABLE, 0
    ):
        zone.below_high = False
    return 0


@cython.cfunc
def _wait_in_merge(sim: Simulation, vcpu: Vcpu, after: cython.int) -> cython.int:
    """A block_merged hook drops the lock: its coroutine runs, then the free goes on."""
    coroutine: Any = vcpu.drain.waiting
    return sim.call_waiting_hook(vcpu, coroutine, "block_merged", after)


@cython.cfunc
def drain_step(sim: Simulation, vcpu: Vcpu, again: cython.bint) -> cython.int:
    """free_pcppages_bulk(): one lock hold for the whole drain."""
    zone: Zone = vcpu.drain.pcp.zone
    if not again:
        vcpu.irqs_off_ns = sim.clock.now
        vcpu.lock_wait += zone.lock.take()
        log_event(sim, sim.clock.now, vcpu.number, EVENT_LOCKED, zone.index, 0)
    while not run_drain(sim, vcpu.drain):
        if not _wait_in_merge(sim, vcpu, DRAIN_AGAIN):
            return 0
    zone.lock.release()
    check_below_high(sim, zone)
    return free_completed(sim, vcpu)


@cython.cfunc
def direct_step(sim: Simulation, vcpu: Vcpu, again: cython.bint) -> cython.int:
    """free_one_page(): under the lock; 6.12 frees order 10 as two pageblocks."""
    zone: Zone = cython.cast(Zone, sim.zones[sim.zone_indices[vcpu.pfn >> MAX_PAGE_ORDER]])
    order: cython.int = vcpu.order
    origin: cython.int = ORIGIN_DIRECT_FREE
    if not again:
        vcpu.irqs_off_ns = sim.clock.now
        vcpu.lock_wait += zone.lock.take()
        log_event(sim, sim.clock.now, vcpu.number, EVENT_LOCKED, zone.index, 0)
        vcpu.piece_end = vcpu.pfn + (1 << order)
    # split_large_buddy()
    if order > PAGEBLOCK_ORDER and sim.kernel >= KERNEL_6_12:
        order = PAGEBLOCK_ORDER
        origin = ORIGIN_SPLIT
    while vcpu.pfn < vcpu.piece_end:
        if vcpu.drain.waiting is not None:
            vcpu.drain.resume_merge(zone, origin, vcpu.pfn, order)
        else:
            log_event(sim, sim.clock.now, vcpu.number, EVENT_RETURNED, vcpu.pfn, order)
            zone.free_one_page(
                vcpu.pfn,
                order,
                sim.pages.pageblock_type[vcpu.pfn >> PAGEBLOCK_ORDER],
                False,
                origin,
            )
            if zone.waiting is not None:
                vcpu.drain.keep_merge(zone)
        if vcpu.drain.waiting is not None:
            if not _wait_in_merge(sim, vcpu, DIRECT_AGAIN):
                return 0
        else:
            vcpu.pfn += 1 << order
    zone.lock.release()
    if sim.hooks.free_completed is None:
        return end_free(sim, vcpu)
    return free_completed(sim, vcpu)


@cython.cfunc
def free_completed(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """The lock is dropped: the freeing thread runs free_completed, and pays for it."""
    begun: cython.longlong
    before: cython.longlong
    if sim.hooks.free_completed is not None:
        point: HookPoint = sim.hooks.free_completed
        before = sim.clock.now
        begun = point.begin(sim.clock)
        coroutine = point.function(sim.hooks.guest, vcpu.number)
        point.end(sim.clock, begun)
        if sim.kernel < KERNEL_6_12 and (coroutine is not None or sim.clock.now != before):
            # local_irq_save() around the whole free, which the hook has made longer.
            sim.driver.interrupts_were_off(vcpu.number, vcpu.irqs_off_ns)
        if coroutine is not None and not sim.call_waiting_hook(vcpu, coroutine, point.name, DONE):
            return 0
    return end_free(sim, vcpu)


@cython.cfunc
@cython.inline
def end_free(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """The operation is over."""
    sim.operations += 1
    vcpu.phase = READY
    return requeue_at(sim, vcpu.number, sim.clock.now)
