"""How a vCPU finds a free block: get_page_from_freelist(), the per-CPU lists, their refills."""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        EVENT_LOCKED,
        EVENT_TAKEN,
        FLAG_ATOMIC,
        FLAG_DMA,
        FLAG_DMA32,
        FLAG_MOVABLE_ZONE,
        FLAG_NO_KSWAPD,
        FLAG_NORETRY,
        HIGHATOMIC,
        KERNEL_6_12,
        PCP,
        ZONE_DMA,
        ZONE_DMA32,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from cython.cimports.hintbench.core.fallback import rmqueue
    from cython.cimports.hintbench.core.handover import fail_allocation, hand_over
    from cython.cimports.hintbench.core.highatomic import may_reserve, reserve
    from cython.cimports.hintbench.core.pcp import PerCpuPages, pcp_allowed
    from cython.cimports.hintbench.core.simulation import Simulation, log_event, requeue_at
    from cython.cimports.hintbench.core.vcpu import (
        DIRECT_TAKE,
        FIND_ZONE,
        HAND_OVER,
        REFILL,
        RESERVE,
        SLOW_PATH,
        Vcpu,
    )
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        EVENT_LOCKED,
        EVENT_TAKEN,
        FLAG_ATOMIC,
        FLAG_DMA,
        FLAG_DMA32,
        FLAG_MOVABLE_ZONE,
        FLAG_NO_KSWAPD,
        FLAG_NORETRY,
        HIGHATOMIC,
        KERNEL_6_12,
        PCP,
        ZONE_DMA,
        ZONE_DMA32,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from hintbench.core.fallback import rmqueue
    from hintbench.core.handover import fail_allocation, hand_over
    from hintbench.core.highatomic import may_reserve, reserve
    from hintbench.core.pcp import PerCpuPages, pcp_allowed
    from hintbench.core.simulation import Simulation, log_event, requeue_at
    from hintbench.core.vcpu import (
        DIRECT_TAKE,
        FIND_ZONE,
        HAND_OVER,
        REFILL,
        RESERVE,
        SLOW_PATH,
        Vcpu,
    )
    from hintbench.core.zone import Zone

_LARGEST_BULK = cython.declare(cython.longlong, 4095)


@cython.cfunc
@cython.exceptval(check=False)
def _highest_zone(flags: cython.uint) -> cython.int:
    """gfp_zone()."""
    if flags & (FLAG_DMA | FLAG_DMA32 | FLAG_MOVABLE_ZONE) == 0:
        return ZONE_NORMAL
    if flags & FLAG_DMA:
        return ZONE_DMA
    if flags & FLAG_DMA32:
        return ZONE_DMA32
    return ZONE_MOVABLE


@cython.cfunc
def begin_allocation(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """ALLOCATE: the fast path, with the low watermark."""
    flags: cython.uint = vcpu.flags
    vcpu.lock_wait = 0
    vcpu.spin = 0
    vcpu.slow_path = 0
    vcpu.slow = False
    vcpu.zone_at = 0
    vcpu.highest_zone = _highest_zone(flags)
    vcpu.no_fragment = False
    if sim.kernel >= KERNEL_6_12:
        if vcpu.highest_zone != vcpu.judged_zone:
            # The answer follows from the zonelist, which stays what it is.
            vcpu.avoids_fragments = _avoids_fragments(vcpu)
            vcpu.judged_zone = vcpu.highest_zone
        vcpu.no_fragment = vcpu.avoids_fragments
    return find_zone(sim, vcpu)


@cython.cfunc
@cython.exceptval(-1)
def _avoids_fragments(vcpu: Vcpu) -> cython.int:
    """alloc_flags_nofragment(): only when the first zone that may be used is NORMAL.

    Where there are several nodes, that zone's node must have a ZONE_DMA32 too.
    """
    index: cython.int
    preferred: cython.int = -1
    for index in range(len(vcpu.zonelist)):
        zone: Zone = cython.cast(Zone, vcpu.zonelist[index])
        if preferred < 0:
            if zone.number > vcpu.highest_zone:
                continue
            preferred = zone.number
            vcpu.preferred_node = zone.node
            if preferred != ZONE_NORMAL or not vcpu.several_nodes:
                break
        elif zone.number == ZONE_DMA32 and zone.node == vcpu.preferred_node:
            return 1
    return preferred == ZONE_NORMAL and not vcpu.several_nodes


@cython.cfunc
@cython.exceptval(check=False)
def _may_use(sim: Simulation, zone: Zone, vcpu: Vcpu, order: cython.int) -> cython.bint:
    """The watermark checks of get_page_from_freelist()."""
    mark: cython.longlong
    reserve: cython.int = 0
    if sim.kernel >= KERNEL_6_12 and not zone.below_high:
        mark = zone.watermark_high + zone.watermark_boost
        if order == 0:
            if zone.free_pages - zone.free_highatomic > (
                mark + zone.lowmem_reserve[vcpu.highest_zone]
            ):
                return True
        elif zone.meets(order, mark, vcpu.highest_zone, 0):
            return True
        zone.below_high = True
    if vcpu.slow:
        mark = zone.watermark_min + zone.watermark_boost
        if vcpu.flags & FLAG_ATOMIC:
            reserve = 2
            if order == 0 and sim.kernel >= KERNEL_6_12:
                # zone_watermark_fast(): such an allocation does not heed the boost.
                mark = zone.watermark_min
    else:
        mark = zone.watermark_low + zone.watermark_boost
    return zone.meets_fast(order, mark, vcpu.highest_zone, reserve)


@cython.ccall
def would_do(zone: Zone, order: cython.int, highest_zone: cython.int) -> cython.bint:
    """Whether a zone is above its min watermark for a request that may block."""
    mark: cython.longlong = zone.watermark_min + zone.watermark_boost
    return zone.meets_fast(order, mark, highest_zone, 0)


@cython.cfunc
def _wake_kswapd(sim: Simulation, vcpu: Vcpu, node: cython.int) -> cython.int:
    """wakeup_kswapd() of one node, -1 for every one: costs something only when it sleeps."""
    if vcpu.flags & FLAG_NO_KSWAPD == 0 and sim.driver.wake_kswapd(vcpu.number, node):
        sim.kswapd_wakes += 1
        sim.clock.now += sim.clock.costs.kswapd_wake_ns
    return 0


@cython.cfunc
def _after_boost(sim: Simulation, vcpu: Vcpu, zone: Zone) -> cython.int:
    """The end of rmqueue(): a fallback that boosted the watermarks wakes kswapd."""
    if zone.boosted:
        zone.boosted = False
        _wake_kswapd(sim, vcpu, zone.node)
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def _is_highatomic(vcpu: Vcpu) -> cython.bint:
    """ALLOC_HIGHATOMIC: a request of the slow path that may not block, for more than a page.

    In 5.0 ALLOC_HARDER of an order above 0, which GFP_ATOMIC sets in gfp_to_alloc_flags().
    """
    if not vcpu.slow or vcpu.order == 0:
        return False
    return vcpu.flags & FLAG_ATOMIC != 0


@cython.cfunc
@cython.exceptval(check=False)
def _next_phase(vcpu: Vcpu, zone: Zone) -> cython.int:
    """What follows on a block that was found: for some its pageblock is set aside first."""
    return RESERVE if _is_highatomic(vcpu) and may_reserve(zone) else HAND_OVER


@cython.cfunc
def reserve_step(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """reserve_highatomic_pageblock() at the end of get_page_from_freelist().

    The kernel calls it behind arch_alloc_page(), so that a hook which spins there comes first.
    """
    zone: Zone = sim.zone_at(vcpu.pfn)
    vcpu.lock_wait += zone.lock.take()
    log_event(sim, sim.clock.now, vcpu.number, EVENT_LOCKED, zone.index, vcpu.order)
    reserve(zone, vcpu.pfn, vcpu.order)
    zone.lock.release()
    vcpu.phase = HAND_OVER
    return requeue_at(sim, vcpu.number, sim.clock.now)


@cython.cfunc
@cython.inline
def _take_from(sim: Simulation, vcpu: Vcpu, zone: Zone) -> cython.int:
    """rmqueue(): from this CPU's list, which is refilled when it is empty, or under the lock."""
    pfn: cython.int
    if not pcp_allowed(sim.kernel, vcpu.order):
        sim.clock.now += sim.clock.costs.direct_path_ns
        vcpu.phase = DIRECT_TAKE
        return requeue_at(sim, vcpu.number, sim.clock.now)
    pcp: PerCpuPages = cython.cast(PerCpuPages, vcpu.pcps[zone.index])
    # Fewer pages are batch freed after an allocation (rmqueue_pcplist()).
    pcp.free_count >>= 1
    sim.clock.now += sim.clock.costs.pcp_hit_ns
    pfn = pcp.pop(vcpu.order, vcpu.migratetype)
    if pfn < 0:
        vcpu.phase = REFILL
        return requeue_at(sim, vcpu.number, sim.clock.now)
    vcpu.pfn = pfn
    if _next_phase(vcpu, zone) == HAND_OVER:
        return hand_over(sim, vcpu)
    vcpu.phase = RESERVE
    return requeue_at(sim, vcpu.number, sim.clock.now)


@cython.cfunc
def find_zone(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """get_page_from_freelist(): the first zone that may give a page, from ``zone_at`` on."""
    count: cython.int = len(vcpu.zonelist)
    while True:
        while vcpu.zone_at < count:
            zone: Zone = cython.cast(Zone, vcpu.zonelist[vcpu.zone_at])
            if vcpu.no_fragment and zone.node != vcpu.preferred_node:
                # Locality is worth more than a whole pageblock.
                break
            if zone.number <= vcpu.highest_zone and _may_use(sim, zone, vcpu, vcpu.order):
                return _take_from(sim, vcpu, zone)
            sim.clock.now += sim.clock.costs.zone_fallback_ns
            vcpu.zone_at += 1
        if vcpu.no_fragment:
            # Fragmentation is better than going without.
            vcpu.no_fragment = False
        elif not vcpu.slow:
            # __alloc_pages_slowpath(): wake kswapd and go down to the min watermark.
            vcpu.slow = True
            sim.slow_paths += 1
            _wake_kswapd(sim, vcpu, -1)
        else:
            break
        vcpu.zone_at = 0
    if vcpu.flags & (FLAG_ATOMIC | FLAG_NORETRY):
        return fail_allocation(sim, vcpu)
    # Direct reclaim may sleep, so it is a coroutine of the guest's.
    if sim.call_waiting_hook(vcpu, sim.driver.slow_path(vcpu), "memory_low", SLOW_PATH):
        return after_slow_path(sim, vcpu)
    return 0


@cython.cfunc
def after_slow_path(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """Direct reclaim has ended: another try, or the end of patience."""
    if vcpu.woken:
        vcpu.woken = False
        vcpu.zone_at = 0
        vcpu.phase = FIND_ZONE
        return requeue_at(sim, vcpu.number, sim.clock.now)
    return fail_allocation(sim, vcpu)


@cython.cfunc
def refill_step(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """rmqueue_bulk(): one lock hold, pages to the tail of the list."""
    zone: Zone = cython.cast(Zone, vcpu.zonelist[vcpu.zone_at])
    pcp: PerCpuPages = cython.cast(PerCpuPages, vcpu.pcps[zone.index])
    order: cython.int = vcpu.order
    head: cython.int = pcp.list_of(order, vcpu.migratetype)
    wanted: cython.longlong
    got: cython.longlong = 0
    pfn: cython.int
    vcpu.lock_wait += zone.lock.take()
    log_event(sim, sim.clock.now, vcpu.number, EVENT_LOCKED, zone.index, order)
    wanted = pcp.refill_size(order)
    vcpu.mode.mode = 0
    while got < wanted:
        pfn = rmqueue(zone, order, vcpu.migratetype, vcpu.no_fragment, vcpu.mode)
        if pfn < 0:
            break
        sim.pages.add_tail(head, pfn)
        sim.pages.state[pfn] = PCP | order
        log_event(sim, sim.clock.now, vcpu.number, EVENT_TAKEN, pfn, order)
        got += 1
    pcp.count += got << order
    sim.taken_by_order[order] += got
    if got <= _LARGEST_BULK:
        sim.refills[got] += 1
    zone.lock.release()
    vcpu.pfn = pcp.pop(order, vcpu.migratetype)
    if vcpu.pfn >= 0:
        vcpu.phase = _next_phase(vcpu, zone)
    elif sim.kernel >= KERNEL_6_12:
        # rmqueue() looks once more, in rmqueue_buddy(), before it goes on to the next zone.
        vcpu.phase = DIRECT_TAKE
    else:
        vcpu.zone_at += 1
        vcpu.phase = FIND_ZONE
    _after_boost(sim, vcpu, zone)
    return requeue_at(sim, vcpu.number, sim.clock.now)


@cython.cfunc
def direct_take_step(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """rmqueue_buddy(): orders that the per-CPU lists do not hold."""
    zone: Zone = cython.cast(Zone, vcpu.zonelist[vcpu.zone_at])
    vcpu.lock_wait += zone.lock.take()
    log_event(sim, sim.clock.now, vcpu.number, EVENT_LOCKED, zone.index, vcpu.order)
    vcpu.pfn = -1
    if _is_highatomic(vcpu):
        vcpu.pfn = zone.rmqueue_smallest(vcpu.order, HIGHATOMIC)
    if vcpu.pfn < 0:
        # __rmqueue() begins with this, in both kernels.
        vcpu.pfn = zone.rmqueue_smallest(vcpu.order, vcpu.migratetype)
    if vcpu.pfn < 0:
        vcpu.mode.mode = 0
        vcpu.pfn = rmqueue(zone, vcpu.order, vcpu.migratetype, vcpu.no_fragment, vcpu.mode)
    if vcpu.pfn < 0 and vcpu.slow and vcpu.flags & FLAG_ATOMIC and sim.kernel >= KERNEL_6_12:
        # A single page now is worth more than a block that somebody may want later.
        vcpu.pfn = zone.rmqueue_smallest(vcpu.order, HIGHATOMIC)
    if vcpu.pfn >= 0:
        sim.taken_by_order[vcpu.order] += 1
        log_event(sim, sim.clock.now, vcpu.number, EVENT_TAKEN, vcpu.pfn, vcpu.order)
        vcpu.phase = _next_phase(vcpu, zone)
    else:
        vcpu.zone_at += 1
        vcpu.phase = FIND_ZONE
    zone.lock.release()
    _after_boost(sim, vcpu, zone)
    return requeue_at(sim, vcpu.number, sim.clock.now)
