"""How an allocation ends: page_allocated, refaults and clearing, and the caller has its page."""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        CAUSE_LOCK_WAIT,
        CAUSE_REFAULT,
        CAUSE_SLOW_PATH,
        CAUSE_SPIN,
        CAUSE_TOTAL,
        CAUSE_ZEROING,
        COMPOUND,
        COMPOUND_MOVABLE,
        EVENT_ALLOCATED,
        EVENT_FAILED,
        FLAG_COMPOUND,
        FLAG_SLAB,
        FLAG_TOUCHED,
        FLAG_ZERO,
        IN_USE,
        IN_USE_MOVABLE,
        KIND_MASK,
        MOVABLE,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        SLAB,
        SLOT_FAILED,
        SLOT_WAITED,
    )
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.simulation import (
        Simulation,
        change_used,
        count_latency,
        log_event,
        requeue_at,
    )
    from cython.cimports.hintbench.core.vcpu import FINISH_ALLOCATION, READY, Vcpu
else:
    from hintbench.core.constants import (
        CAUSE_LOCK_WAIT,
        CAUSE_REFAULT,
        CAUSE_SLOW_PATH,
        CAUSE_SPIN,
        CAUSE_TOTAL,
        CAUSE_ZEROING,
        COMPOUND,
        COMPOUND_MOVABLE,
        EVENT_ALLOCATED,
        EVENT_FAILED,
        FLAG_COMPOUND,
        FLAG_SLAB,
        FLAG_TOUCHED,
        FLAG_ZERO,
        IN_USE,
        IN_USE_MOVABLE,
        KIND_MASK,
        MOVABLE,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        SLAB,
        SLOT_FAILED,
        SLOT_WAITED,
    )
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import HookPoint
    from hintbench.core.simulation import (
        Simulation,
        change_used,
        count_latency,
        log_event,
        requeue_at,
    )
    from hintbench.core.vcpu import FINISH_ALLOCATION, READY, Vcpu


@cython.cfunc
def hand_over(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """post_alloc_hook(): page_allocated fires, and may spin, before the caller has the page."""
    begun: cython.longlong
    if sim.hooks.page_allocated is not None and sim.test_hook(
        sim.hooks.page_allocated, vcpu.pfn, vcpu.order
    ):
        point: HookPoint = sim.hooks.page_allocated
        begun = point.begin(sim.clock)
        coroutine = point.function(sim.hooks.guest, vcpu.number, vcpu.pfn, vcpu.order)
        point.end(sim.clock, begun)
        if coroutine is not None and not sim.call_waiting_hook(
            vcpu, coroutine, point.name, FINISH_ALLOCATION
        ):
            return 0
    return finish_allocation(sim, vcpu)


@cython.cfunc
@cython.exceptval(check=False)
def state_of(flags: cython.uint, migratetype: cython.int, order: cython.int) -> cython.int:
    """The state byte of a block that its user has.

    prep_new_page() makes no compound page of a single one, which is asked for with __GFP_COMP too.
    """
    compound: cython.bint = order > 0 and flags & FLAG_COMPOUND != 0
    if flags & FLAG_SLAB:
        return SLAB | order
    if migratetype == MOVABLE:
        return (COMPOUND_MOVABLE if compound else IN_USE_MOVABLE) | order
    return (COMPOUND if compound else IN_USE) | order


@cython.cfunc
@cython.exceptval(-1)
def _used_around(sim: Simulation, pfn: cython.int) -> cython.int:
    """Pages in use beside a block whose touch has brought its whole 2 MiB unit back.

    Their owners have not touched them since the host took the unit, and yet they are backed now.
    """
    here: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
    end: cython.int = here + PAGEBLOCK_PAGES
    state: cython.int
    count: cython.int = 0
    while here < end:
        state = sim.pages.state[here]
        if here != pfn and IN_USE <= (state & KIND_MASK) <= SLAB:
            count += 1 << (state & ORDER_MASK)
        here += 1 << (state & ORDER_MASK)
    return count


@cython.cfunc
def touch_pages(
    sim: Simulation, vcpu: Vcpu, pfn: cython.int, order: cython.int, clear: cython.bint
) -> cython.int:
    """The guest writes every page of a block: refaults first, then clearing.

    The page is written after arch_alloc_page, and that write is the EPT violation, so both
    belong to the allocation's latency. Clearing shares the machine's memory bandwidth with
    whoever else clears at this time.
    """
    refault: cython.longlong = 0
    share: cython.longlong
    huge: cython.longlong
    if order or not sim.backing.is_backed(pfn):
        huge = sim.backing.huge_refaults
        refault = sim.backing.fault(pfn, order)
        if order < PAGEBLOCK_ORDER and sim.backing.huge_refaults != huge:
            change_used(sim, sim.clock.now, _used_around(sim, pfn))
            if sim.backing.split is not None:
                sim.backing.split.came_back(pfn)
    if refault:
        sim.clock.now += refault
        sim.refault_stall_ns += refault
        count_latency(sim, order, CAUSE_REFAULT, refault)
    if not clear:
        sim.clock.now += sim.clock.costs.touch_page_ns << order
        return 0
    share = sim.clock.costs.memory_page_ns * (sim.clearing + 1)
    if share < sim.clock.costs.clear_page_ns:
        share = sim.clock.costs.clear_page_ns
    share <<= order
    sim.clock.now += share
    count_latency(sim, order, CAUSE_ZEROING, share)
    # Until this vCPU's next step, which nobody else's precedes in time.
    vcpu.clearing = True
    sim.clearing += 1
    return 0


@cython.cfunc
def wait_for_slot(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """A slot is not filled yet: whoever fills it wakes us, and the operation starts again.

    Others may wait for it as well: the slot names the last one, who knows the one before.
    """
    vcpu.waits_behind = sim.slots[vcpu.slot]
    sim.slots[vcpu.slot] = SLOT_WAITED - vcpu.number
    return sim.block(vcpu)


@cython.cfunc
def _wake_waiters(sim: Simulation, waiting: cython.int) -> cython.int:
    """The slot is filled: all who wait for it go on, in the order of their numbers."""
    while waiting <= SLOT_WAITED:
        vcpu: Vcpu = cython.cast(Vcpu, sim.vcpus[SLOT_WAITED - waiting])
        waiting = vcpu.waits_behind
        sim.driver.wake_vcpu(vcpu.number)
    return 0


@cython.cfunc
def finish_allocation(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """The caller gets the page: clearing, the slot, the books."""
    pfn: cython.int = vcpu.pfn
    order: cython.int = vcpu.order
    flags: cython.uint = vcpu.flags
    waiting: cython.int
    log_event(sim, sim.clock.now, vcpu.number, EVENT_ALLOCATED, pfn, order)
    if sim.hooks.forget_when_allocated:
        for each in sim.hooks.forget_when_allocated:
            cython.cast(UnitFlags, each).forget(pfn, order)
    sim.pages.state[pfn] = state_of(flags, vcpu.migratetype, order)
    if flags & (FLAG_ZERO | FLAG_TOUCHED):
        touch_pages(sim, vcpu, pfn, order, flags & FLAG_ZERO != 0)
        change_used(sim, sim.clock.now, 1 << order)
    else:
        change_used(sim, sim.clock.now, sim.backing.backed_block(pfn, order))
    waiting = sim.slots[vcpu.slot]
    sim.slots[vcpu.slot] = pfn
    if waiting <= SLOT_WAITED:
        _wake_waiters(sim, waiting)
    sim.allocations += 1
    count_latency(sim, order, CAUSE_TOTAL, sim.clock.now - vcpu.started)
    if vcpu.lock_wait:
        count_latency(sim, order, CAUSE_LOCK_WAIT, vcpu.lock_wait)
    if vcpu.spin:
        count_latency(sim, order, CAUSE_SPIN, vcpu.spin)
    if vcpu.slow_path:
        count_latency(sim, order, CAUSE_SLOW_PATH, vcpu.slow_path)
    sim.operations += 1
    vcpu.phase = READY
    return requeue_at(sim, vcpu.number, sim.clock.now)


@cython.cfunc
def fail_allocation(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """No page: the slot is marked, so that its free and touches are no-ops."""
    clock = sim.clock
    waiting: cython.int = sim.slots[vcpu.slot]
    log_event(sim, clock.now, vcpu.number, EVENT_FAILED, vcpu.slot, vcpu.order)
    sim.failed += 1
    sim.driver.allocation_failed(vcpu)
    sim.slots[vcpu.slot] = SLOT_FAILED
    if waiting <= SLOT_WAITED:
        _wake_waiters(sim, waiting)
    sim.operations += 1
    vcpu.phase = READY
    return requeue_at(sim, vcpu.number, sim.clock.now)
