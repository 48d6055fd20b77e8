"""The operations that most runs consist of, in one piece: a page leaves or joins a per-CPU list.

Of order 0, backed by the host, while no hook wants to hear of it. What happens then is what
:mod:`~hintbench.core.allocation`, :mod:`~hintbench.core.freeing` and
:mod:`~hintbench.core.handover` do with it step by step; a test runs the same tapes both ways. An
operation is looked at first, and only begun when nothing stands in its way: a refill, a drain, a
refault, a watermark, a vCPU that waits for the slot. Otherwise it is left to those modules.
"""

import cython

if cython.compiled:
    from cython.cimports.cpython.exc import PyErr_CheckSignals
    from cython.cimports.hintbench.core.constants import (
        ALLOCATE,
        CAUSE_TOTAL,
        CAUSE_ZEROING,
        EVENT_ALLOCATED,
        EVENT_FREED,
        FLAG_ATOMIC,
        FLAG_COMPOUND,
        FLAG_MOVABLE_ZONE,
        FLAG_NO_KSWAPD,
        FLAG_NORETRY,
        FLAG_TOUCHED,
        FLAG_ZERO,
        FREE,
        HIGHATOMIC,
        IN_USE,
        IN_USE_MOVABLE,
        KERNEL_6_12,
        MANY_VCPUS,
        MAX_PAGE_ORDER,
        MOVABLE,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAYER_THREAD,
        PCP,
        PCP_BATCH_SCALE_MAX,
        SLOT_EMPTY,
        SLOT_WAITED,
        TOUCH,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from cython.cimports.hintbench.core.hooks import CoreHooks
    from cython.cimports.hintbench.core.pcp import PerCpuPages
    from cython.cimports.hintbench.core.simulation import (
        Simulation,
        change_used,
        count_latency,
        log_event,
        prefetch,
        requeue_at,
    )
    from cython.cimports.hintbench.core.vcpu import READY, Vcpu
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        ALLOCATE,
        CAUSE_TOTAL,
        CAUSE_ZEROING,
        EVENT_ALLOCATED,
        EVENT_FREED,
        FLAG_ATOMIC,
        FLAG_COMPOUND,
        FLAG_MOVABLE_ZONE,
        FLAG_NO_KSWAPD,
        FLAG_NORETRY,
        FLAG_TOUCHED,
        FLAG_ZERO,
        FREE,
        HIGHATOMIC,
        IN_USE,
        IN_USE_MOVABLE,
        KERNEL_6_12,
        MANY_VCPUS,
        MAX_PAGE_ORDER,
        MOVABLE,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAYER_THREAD,
        PCP,
        PCP_BATCH_SCALE_MAX,
        SLOT_EMPTY,
        SLOT_WAITED,
        TOUCH,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from hintbench.core.hooks import CoreHooks
    from hintbench.core.pcp import PerCpuPages
    from hintbench.core.simulation import (
        Simulation,
        change_used,
        count_latency,
        log_event,
        requeue_at,
    )
    from hintbench.core.vcpu import READY, Vcpu
    from hintbench.core.zone import Zone

_SIGNAL_CHECK_MASK = cython.declare(cython.longlong, 0xFFFF)
# How many operations ahead a tape's words are fetched, the slots, and what those then point at.
_WORDS_AHEAD = cython.declare(cython.int, 16)
_SLOTS_AHEAD = cython.declare(cython.int, 6)
_PAGES_AHEAD = cython.declare(cython.int, 3)


@cython.cfunc
@cython.exceptval(check=False)
def look_ahead(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """Fetch what this vCPU's next operations will look at, while the others take their turns.

    A simulation is bound by cache misses: one to the slot, then two to the page that it holds.
    """
    if cython.compiled:
        word: cython.ulonglong
        pfn: cython.int
        if vcpu.position + _SLOTS_AHEAD >= vcpu.length:
            return 0
        if vcpu.position + _WORDS_AHEAD < vcpu.length:
            prefetch(cython.address(vcpu.words[vcpu.position + _WORDS_AHEAD]))
        word = vcpu.words[vcpu.position + _SLOTS_AHEAD]
        if (word & 15) <= TOUCH:
            prefetch(cython.address(sim.slots[word >> 32]))
        word = vcpu.words[vcpu.position + _PAGES_AHEAD]
        if (word & 15) == FREE or (word & 15) == TOUCH:
            pfn = sim.slots[word >> 32]
            if pfn >= 0:
                prefetch(cython.address(sim.pages.state[pfn]))
                prefetch(cython.address(sim.pages.links[2 * cython.cast(cython.Py_ssize_t, pfn)]))
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _fetch(vcpu: Vcpu) -> cython.int:
    """Fetch what the step of a vCPU looks at first."""
    if cython.compiled:
        if vcpu.position < vcpu.length:
            prefetch(cython.address(vcpu.words[vcpu.position]))
            prefetch(cython.cast(cython.p_void, vcpu.pcps))
    return 0


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _fetch_next(sim: Simulation, first: cython.int) -> cython.int:
    """Fetch the state of the vCPU that probably comes after ``first``; of many none is at hand.

    Looked at are the best of the other half and that of the other quarter of ``first``'s own half:
    in three cases of four it is one of them.
    """
    if cython.compiled:
        node: cython.int = (sim.winner.leaves + first) >> (sim.winner.number_bits - 2)
        best: cython.ulonglong = min(sim.winner.tree[node ^ 1], sim.winner.tree[(node >> 1) ^ 1])
        _fetch(cython.cast(Vcpu, sim.vcpus[best & (sim.winner.leaves - 1)]))
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def _nobody_listens(sim: Simulation) -> cython.bint:
    """Whether operations of order 0 concern the guest alone; only Python code changes that.

    A hook that wants none of order 0 may stay, if not even its test costs the guest anything.
    """
    hooks: CoreHooks = sim.hooks
    if not sim.fast_path or sim.claim_freed or sim.clock.preemptions is not None:
        return False
    if sim.clock.digest.listener is not None or len(hooks.forget_when_allocated):
        return False
    if hooks.page_freeing is not None and not (
        hooks.page_freeing.min_order and hooks.page_freeing.cost_ns == 0
    ):
        return False
    return hooks.page_allocated is None or (
        hooks.page_allocated.min_order > 0 and hooks.page_allocated.cost_ns == 0
    )


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _keeps(kernel: cython.int, pcp: PerCpuPages) -> cython.bint:
    """Whether one more page may stay on the lists; then the rest of free_unref_page_commit().

    As :meth:`PerCpuPages.to_drain`, for the cases in which that returns 0.
    """
    count: cython.longlong = pcp.count + 1
    freed: cython.longlong
    high: cython.longlong
    if kernel < KERNEL_6_12:
        return count < pcp.high
    high = min(max(pcp.high, pcp.high_min), pcp.high_max)
    if pcp.zone.reclaim_active:
        return False
    freed = pcp.free_count
    if freed < pcp.batch << PCP_BATCH_SCALE_MAX:
        freed += 1
    if pcp.zone.below_high and pcp.high_min != pcp.high_max:
        if count >= pcp.high_min:
            return False
        high = max(high - max(freed, pcp.batch), pcp.high_min)
    elif count >= high:
        return False
    pcp.high = high
    pcp.free_count = freed
    pcp.previous_free_high_order = False
    return True


@cython.cfunc
@cython.inline
def _is_backed(sim: Simulation, pfn: cython.int) -> cython.bint:
    """Whether the host backs a page of the guest: all, while it has taken nothing."""
    return sim.backing.reclaimed.value == 0 or sim.backing.is_backed(pfn)


@cython.cfunc
@cython.inline
def _free(
    sim: Simulation, vcpu: Vcpu, slot: cython.Py_ssize_t, now: cython.longlong
) -> cython.bint:
    """FREE of a page that stays on this CPU's list."""
    pfn: cython.int = sim.slots[slot]
    migratetype: cython.int
    pcp: PerCpuPages = cython.cast(PerCpuPages, vcpu.pcps[sim.zone_indices[pfn >> MAX_PAGE_ORDER]])
    if not _keeps(sim.kernel, pcp):
        return False
    _begin(sim, vcpu)
    sim.slots[slot] = SLOT_EMPTY
    log_event(sim, now, vcpu.number, EVENT_FREED, pfn, 0)
    sim.frees += 1
    if _is_backed(sim, pfn):
        change_used(sim, now, -1)
    migratetype = sim.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
    if migratetype >= HIGHATOMIC or pcp.zone.recorded_highatomic:
        migratetype = pcp.type_of_freed(pfn)
    pcp.alloc_factor >>= 1
    sim.pages.add_head(pcp.first_list + migratetype, pfn)
    sim.pages.state[pfn] = PCP
    pcp.count += 1
    return _end(sim, vcpu, now + sim.clock.costs.pcp_free_ns)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _clear(sim: Simulation, vcpu: Vcpu) -> cython.longlong:
    """The guest clears the page; what that takes [ns], with as many others as do the same."""
    share: cython.longlong = sim.clock.costs.memory_page_ns * (sim.clearing + 1)
    share = max(share, sim.clock.costs.clear_page_ns)
    count_latency(sim, 0, CAUSE_ZEROING, share)
    vcpu.clearing = True
    sim.clearing += 1
    return share


@cython.cfunc
@cython.inline
def _allocate(
    sim: Simulation, vcpu: Vcpu, word: cython.ulonglong, now: cython.longlong
) -> cython.bint:
    """ALLOCATE of a page that is on this CPU's list."""
    flags: cython.uint = cython.cast(cython.uint, word)
    slot: cython.Py_ssize_t = word >> 32
    migratetype: cython.int = (flags >> 8) & 7
    highest_zone: cython.int = ZONE_MOVABLE if flags & FLAG_MOVABLE_ZONE else ZONE_NORMAL
    no_fragment: cython.bint = False
    begun: cython.longlong = now
    share: cython.longlong
    backed: cython.bint
    pfn: cython.int
    at: cython.Py_ssize_t
    if sim.kernel >= KERNEL_6_12:
        if highest_zone != vcpu.judged_zone:
            return False
        no_fragment = vcpu.avoids_fragments
    if sim.slots[slot] <= SLOT_WAITED or migratetype >= HIGHATOMIC:
        return False
    # get_page_from_freelist(), as long as it changes nothing; apart it is slower (docs/speed.md).
    for at in range(len(vcpu.zonelist)):
        zone: Zone = cython.cast(Zone, vcpu.zonelist[at])
        if no_fragment and zone.node != vcpu.preferred_node:
            return False
        if zone.number <= highest_zone:
            share = zone.free_pages - zone.free_highatomic - zone.watermark_boost
            share -= zone.lowmem_reserve[highest_zone]
            if sim.kernel >= KERNEL_6_12 and not zone.below_high:
                if share <= zone.watermark_high:
                    return False
                break
            if share > zone.watermark_low:
                break
        now += sim.clock.costs.zone_fallback_ns
    else:
        return False
    pcp: PerCpuPages = cython.cast(PerCpuPages, vcpu.pcps[zone.index])
    pfn = sim.pages.next[pcp.first_list + migratetype]
    if pfn >= sim.pages.page_count:
        # The list's own head: it is empty.
        return False
    backed = _is_backed(sim, pfn)
    if flags & (FLAG_ZERO | FLAG_TOUCHED) and not backed:
        return False
    _begin(sim, vcpu)
    pcp.free_count >>= 1
    sim.pages.remove(pfn)
    pcp.count -= 1
    now += sim.clock.costs.pcp_hit_ns
    log_event(sim, now, vcpu.number, EVENT_ALLOCATED, pfn, 0)
    sim.pages.state[pfn] = IN_USE_MOVABLE if migratetype == MOVABLE else IN_USE
    if flags & FLAG_ZERO:
        now += _clear(sim, vcpu)
    elif flags & FLAG_TOUCHED:
        now += sim.clock.costs.touch_page_ns
    change_used(sim, now, backed)
    sim.slots[slot] = pfn
    sim.allocations += 1
    count_latency(sim, 0, CAUSE_TOTAL, now - begun)
    return _end(sim, vcpu, now)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _begin(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """Nothing stands in the way: the vCPU takes its step."""
    look_ahead(sim, vcpu)
    vcpu.position += 1
    vcpu.idle = False
    if vcpu.clearing:
        vcpu.clearing = False
        sim.clearing -= 1
    return 0


@cython.cfunc
@cython.inline
def _end(sim: Simulation, vcpu: Vcpu, now: cython.longlong) -> cython.bint:
    """The operation is over at ``now``."""
    sim.operations += 1
    sim.clock.now = now
    requeue_at(sim, vcpu.number, now)
    return True


@cython.cfunc
def run_fast(sim: Simulation) -> cython.bint:
    """Let whoever is next take a step, for as long as all of them are operations of this kind.

    Returns:
        Whether there was one.
    """
    allowed: cython.uint = FLAG_ZERO | FLAG_TOUCHED | FLAG_ATOMIC | FLAG_NORETRY
    allowed |= FLAG_NO_KSWAPD | FLAG_MOVABLE_ZONE | FLAG_COMPOUND | 0x700  # of any migratetype
    mask: cython.int = sim.winner.leaves - 1
    first: cython.int
    before: cython.longlong = sim.progress
    now: cython.longlong
    word: cython.ulonglong
    alone: cython.bint = False
    many: cython.bint = len(sim.vcpus) >= MANY_VCPUS
    while True:
        first = sim.winner.tree[1] & mask
        now = sim.winner.keys[first]
        if sim.next_event_ns <= now:
            break
        if many:
            _fetch_next(sim, first)
        vcpu: Vcpu = cython.cast(Vcpu, sim.vcpus[first])
        if vcpu.phase != READY or vcpu.position >= vcpu.length:
            break
        if vcpu.timed and vcpu.times[vcpu.position] > now:
            break
        word = vcpu.words[vcpu.position]
        if word & 15 == FREE:
            if sim.slots[word >> 32] < 0 or sim.pages.state[sim.slots[word >> 32]] & ORDER_MASK:
                break
        elif word & 0xFF != ALLOCATE or cython.cast(cython.uint, word) & ~allowed:
            break
        alone = alone or _nobody_listens(sim)
        if not alone:
            break
        if word & 15 == FREE:
            if not _free(sim, vcpu, word >> 32, now):
                break
        elif not _allocate(sim, vcpu, word, now):
            break
        sim.clock.cpu = first
        sim.clock.payer = PAYER_THREAD
        sim.clock.context = first
        sim.progress += 1
        if cython.compiled and sim.progress & _SIGNAL_CHECK_MASK == 0:
            PyErr_CheckSignals()
    return sim.progress != before
