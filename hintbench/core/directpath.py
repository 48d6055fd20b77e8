"""The steps of blocks that the per-CPU lists do not hold, as long as it goes on with them.

As :mod:`~hintbench.core.fastpath` for order 0: how an operation begins is here in one piece, and
only begun when nothing stands in its way (a hook that wants to hear of it, a watermark, a slot
that is empty); otherwise it is left to :mod:`~hintbench.core.machine`. What happens under the
zone's lock and afterwards is what :mod:`~hintbench.core.allocation`,
:mod:`~hintbench.core.freeing` and :mod:`~hintbench.core.handover` do in any case. A test runs the
same tapes both ways.
"""

import cython

if cython.compiled:
    from cython.cimports.cpython.exc import PyErr_CheckSignals
    from cython.cimports.hintbench.core.allocation import direct_take_step
    from cython.cimports.hintbench.core.constants import (
        ALLOCATE,
        EVENT_FREED,
        FLAG_DMA,
        FLAG_DMA32,
        FLAG_MOVABLE_ZONE,
        FREE,
        KERNEL_6_12,
        ORDER_MASK,
        PAYER_THREAD,
        SLOT_EMPTY,
        TRANSIT,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from cython.cimports.hintbench.core.fastpath import look_ahead
    from cython.cimports.hintbench.core.freeing import direct_step
    from cython.cimports.hintbench.core.handover import finish_allocation
    from cython.cimports.hintbench.core.simulation import (
        Simulation,
        change_used,
        log_event,
        requeue_at,
    )
    from cython.cimports.hintbench.core.vcpu import (
        DIRECT_FREE,
        DIRECT_TAKE,
        HAND_OVER,
        READY,
        Vcpu,
    )
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.allocation import direct_take_step
    from hintbench.core.constants import (
        ALLOCATE,
        EVENT_FREED,
        FLAG_DMA,
        FLAG_DMA32,
        FLAG_MOVABLE_ZONE,
        FREE,
        KERNEL_6_12,
        ORDER_MASK,
        PAYER_THREAD,
        SLOT_EMPTY,
        TRANSIT,
        ZONE_MOVABLE,
        ZONE_NORMAL,
    )
    from hintbench.core.fastpath import look_ahead
    from hintbench.core.freeing import direct_step
    from hintbench.core.handover import finish_allocation
    from hintbench.core.simulation import (
        Simulation,
        change_used,
        log_event,
        requeue_at,
    )
    from hintbench.core.vcpu import DIRECT_FREE, DIRECT_TAKE, HAND_OVER, READY, Vcpu
    from hintbench.core.zone import Zone

_SIGNAL_CHECK_MASK = cython.declare(cython.longlong, 0xFFFF)


@cython.cfunc
@cython.inline
def _free(sim: Simulation, vcpu: Vcpu, slot: cython.Py_ssize_t) -> cython.bint:
    """begin_free() of a block that goes straight to the buddy allocator."""
    pfn: cython.int = sim.slots[slot]
    order: cython.int
    if pfn < 0:
        return False
    order = sim.pages.state[pfn] & ORDER_MASK
    if (sim.direct_orders >> order) & 1 == 0:
        return False
    if sim.claim_freed or sim.hooks.page_freeing is not None:
        return False
    look_ahead(sim, vcpu)
    vcpu.position += 1
    vcpu.idle = False
    vcpu.started = sim.clock.now
    vcpu.slot = slot
    vcpu.pfn = pfn
    vcpu.order = order
    sim.slots[slot] = SLOT_EMPTY
    log_event(sim, sim.clock.now, vcpu.number, EVENT_FREED, pfn, order)
    sim.frees += 1
    sim.pages.state[pfn] = TRANSIT | order
    change_used(sim, sim.clock.now, -sim.backing.backed_block(pfn, order))
    sim.clock.now += sim.clock.costs.direct_path_ns
    vcpu.phase = DIRECT_FREE
    requeue_at(sim, vcpu.number, sim.clock.now)
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _may_give(
    sim: Simulation, zone: Zone, order: cython.int, highest_zone: cython.int
) -> cython.bint:
    """The watermark check of get_page_from_freelist(), where the answer has no consequences."""
    mark: cython.longlong = zone.watermark_low
    if zone.number > highest_zone:
        return False
    if sim.kernel >= KERNEL_6_12 and not zone.below_high:
        mark = zone.watermark_high
    return zone.meets(order, mark + zone.watermark_boost, highest_zone, 0)


@cython.cfunc
@cython.inline
def _allocate(sim: Simulation, vcpu: Vcpu, word: cython.ulonglong) -> cython.bint:
    """begin_allocation() of a block that comes from the buddy allocator of the first zone."""
    flags: cython.uint = cython.cast(cython.uint, word)
    order: cython.int = (flags >> 4) & 15
    highest_zone: cython.int = ZONE_MOVABLE if flags & FLAG_MOVABLE_ZONE else ZONE_NORMAL
    if (sim.direct_orders >> order) & 1 == 0 or flags & (FLAG_DMA | FLAG_DMA32):
        return False
    if sim.kernel >= KERNEL_6_12 and highest_zone != vcpu.judged_zone:
        return False
    if not _may_give(sim, cython.cast(Zone, vcpu.zonelist[0]), order, highest_zone):
        return False
    look_ahead(sim, vcpu)
    vcpu.position += 1
    vcpu.idle = False
    vcpu.started = sim.clock.now
    vcpu.slot = word >> 32
    vcpu.order = order
    vcpu.migratetype = (flags >> 8) & 7
    vcpu.flags = flags
    vcpu.lock_wait = 0
    vcpu.spin = 0
    vcpu.slow_path = 0
    vcpu.slow = False
    vcpu.zone_at = 0
    vcpu.highest_zone = highest_zone
    vcpu.no_fragment = sim.kernel >= KERNEL_6_12 and vcpu.avoids_fragments
    sim.clock.now += sim.clock.costs.direct_path_ns
    vcpu.phase = DIRECT_TAKE
    requeue_at(sim, vcpu.number, sim.clock.now)
    return True


@cython.cfunc
@cython.inline
def _begin(sim: Simulation, vcpu: Vcpu) -> cython.bint:
    """The operation at the tape's head, if it is of this kind and its time has come."""
    word: cython.ulonglong
    if vcpu.position >= vcpu.length:
        return False
    if vcpu.timed and vcpu.times[vcpu.position] > sim.clock.now:
        return False
    word = vcpu.words[vcpu.position]
    if word & 15 == FREE:
        return _free(sim, vcpu, word >> 32)
    return word & 15 == ALLOCATE and _allocate(sim, vcpu, word)


@cython.cfunc
@cython.inline
def _step(sim: Simulation, vcpu: Vcpu, now: cython.longlong) -> cython.bint:
    """Let one vCPU do what is next for it, if that is one of these steps."""
    sim.clock.now = now
    sim.clock.cpu = vcpu.number
    sim.clock.payer = PAYER_THREAD
    sim.clock.context = vcpu.number
    if vcpu.clearing:
        vcpu.clearing = False
        sim.clearing -= 1
    if vcpu.phase == READY:
        return _begin(sim, vcpu)
    if vcpu.phase == DIRECT_FREE:
        direct_step(sim, vcpu, False)
    elif vcpu.phase == DIRECT_TAKE:
        direct_take_step(sim, vcpu)
    elif vcpu.phase == HAND_OVER and sim.hooks.page_allocated is None:
        finish_allocation(sim, vcpu)
    else:
        return False
    return True


@cython.cfunc
def run_direct(sim: Simulation) -> cython.bint:
    """Let whoever is next take a step, for as long as all of them are steps of this kind.

    Returns:
        Whether there was one.
    """
    mask: cython.int = sim.winner.leaves - 1
    first: cython.int
    before: cython.longlong = sim.progress
    now: cython.longlong
    if not sim.fast_path or sim.clock.preemptions is not None:
        return False
    while True:
        first = sim.winner.tree[1] & mask
        now = sim.winner.keys[first]
        if sim.next_event_ns <= now:
            break
        sim.progress += 1
        if not _step(sim, cython.cast(Vcpu, sim.vcpus[first]), now):
            sim.progress -= 1
            break
        if cython.compiled:
            if sim.progress & _SIGNAL_CHECK_MASK == 0:
                PyErr_CheckSignals()
    return sim.progress != before
