"""Exact replay: the free lists follow a real kernel's recorded choices, block by block.

TAKE cuts the very block that the kernel took out of the enclosing free block; RETURN frees the
very page that its pcp drain freed; HAND_OUT and GIVE_BACK move a page between a per-CPU list and
its user.  A page that a strategy has isolated when the kernel took it makes the vCPU wait.

Where a page's hand-out or free finds it on a free list still (page flags of another moment, or
another CPU's take that waits for a strategy), it is taken off that list first and counted.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_ALLOCATED,
        EVENT_FREED,
        EVENT_LOCKED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        FLAG_CLAIM,
        FLAG_SILENT,
        FLAG_TOUCHED,
        FLAG_ZERO,
        GIVE_BACK,
        HAND_OUT,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PCP_DRAIN,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        PCP,
        TAKE,
    )
    from cython.cimports.hintbench.core.fallback import move_free_blocks
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.freeing import free_completed, leave_user
    from cython.cimports.hintbench.core.handover import state_of, touch_pages
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.simulation import Simulation
    from cython.cimports.hintbench.core.vcpu import DONE, EXACT, EXACT_AGAIN, READY, Vcpu
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        BUDDY,
        EVENT_ALLOCATED,
        EVENT_FREED,
        EVENT_LOCKED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        FLAG_CLAIM,
        FLAG_SILENT,
        FLAG_TOUCHED,
        FLAG_ZERO,
        GIVE_BACK,
        HAND_OUT,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PCP_DRAIN,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        PCP,
        TAKE,
    )
    from hintbench.core.fallback import move_free_blocks
    from hintbench.core.flags import UnitFlags
    from hintbench.core.freeing import free_completed, leave_user
    from hintbench.core.handover import state_of, touch_pages
    from hintbench.core.hooks import HookPoint
    from hintbench.core.simulation import Simulation
    from hintbench.core.vcpu import DONE, EXACT, EXACT_AGAIN, READY, Vcpu
    from hintbench.core.zone import Zone

_CODE_MASK = cython.declare(cython.ulonglong, 0xFFFFFFFF)
# Recorded takes or returns of one CPU this close together were one lock hold.
_ONE_HOLD_NS = cython.declare(cython.longlong, 20_000)
# How long a vCPU waits before it looks again for a page that a strategy holds.
_LOOK_AGAIN_NS = cython.declare(cython.longlong, 5_000)


@cython.cfunc
def exact_step(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """One recorded operation; takes and returns of one burst share a lock hold."""
    operation: cython.int = vcpu.words[vcpu.position] & 15
    if operation == HAND_OUT:
        return _hand_out(sim, vcpu)
    if operation == GIVE_BACK:
        return _give_back(sim, vcpu)
    return _burst(sim, vcpu, operation)


@cython.cfunc
def _burst(sim: Simulation, vcpu: Vcpu, operation: cython.int) -> cython.int:
    """Everything of one kind that the kernel did under one zone-lock hold."""
    clock = sim.clock
    zone: Zone = sim.zone_at(vcpu.words[vcpu.position] >> 32)
    last: cython.longlong
    done: cython.int = 1
    again: cython.bint = vcpu.phase == EXACT_AGAIN
    if not again:
        vcpu.irqs_off_ns = clock.now
        vcpu.lock_wait += zone.lock.take()
        clock.digest.add(clock.now, vcpu.number, EVENT_LOCKED, zone.index, operation)
    while True:
        last = vcpu.times[vcpu.position]
        vcpu.order = (vcpu.words[vcpu.position] >> 4) & 15
        vcpu.pfn = vcpu.words[vcpu.position] >> 32
        if operation == TAKE:
            done = _take(sim, vcpu, zone)
        else:
            done = _return(sim, vcpu, zone)
        if done != 1:
            break
        vcpu.position += 1
        sim.operations += 1
        # What follows may be of this hold, too: the tape is cut anywhere.
        if vcpu.position >= vcpu.length and not vcpu.next_block():
            break
        if vcpu.words[vcpu.position] & 15 != operation or (
            vcpu.times[vcpu.position] > last + _ONE_HOLD_NS
            or sim.zone_at(vcpu.words[vcpu.position] >> 32) is not zone
        ):
            break
    if done == 2:
        # A block_merged hook waits, and has dropped the lock itself.
        if not sim.call_waiting_hook(vcpu, vcpu.drain.waiting, "block_merged", EXACT_AGAIN):
            return 0
        vcpu.phase = EXACT_AGAIN
        return _burst(sim, vcpu, operation)
    zone.lock.release()
    if done == 0:
        return _look_again(sim, vcpu)
    vcpu.phase = READY
    if operation != TAKE:
        sim.operations -= 1
        return free_completed(sim, vcpu)
    return sim.requeue(vcpu)


@cython.cfunc
def _take(sim: Simulation, vcpu: Vcpu, zone: Zone) -> cython.int:
    """The block leaves the free list: 1 done, 0 in a strategy's hands."""
    pages = sim.pages
    pfn: cython.int = vcpu.pfn
    order: cython.int = vcpu.order
    head: cython.int = pages.head_of(pfn)
    state: cython.int = pages.state[head] if head >= 0 else 0
    high: cython.int = state & ORDER_MASK
    migratetype: cython.int
    if (state & KIND_MASK) == ISOLATED:
        return 0
    if (state & KIND_MASK) != BUDDY or high < order:
        # The recording and the model disagree: counted, and the kernel is followed.
        sim.exact_taken_again += 1
        return 1
    if sim.truth is not None:
        sim.truth.take(
            vcpu.number,
            zone,
            pfn,
            order,
            (vcpu.words[vcpu.position] >> 8) & 7,
            vcpu.words[vcpu.position] & FLAG_SILENT != 0,
        )
    if vcpu.words[vcpu.position] & FLAG_CLAIM:
        migratetype = (vcpu.words[vcpu.position] >> 8) & 7
        _claim(zone, head, high, migratetype)
    else:
        migratetype = zone.list_type(head, high)
    zone.take_part(head, high, pfn, order, migratetype, PCP)
    sim.taken_by_order[order] += 1
    sim.clock.digest.add(sim.clock.now, vcpu.number, EVENT_TAKEN, pfn, order)
    return 1


@cython.cfunc
def _leave_lists(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """See to it that no page of the vCPU's block is on a free list: 1 done, 0 one is isolated.

    Its state byte is about to change; a free block whose byte is overwritten stays linked, and
    its list loses its end.
    """
    pfn: cython.int = vcpu.pfn
    order: cython.int = vcpu.order
    here: cython.int
    if _first_page(sim, pfn, order, ISOLATED) >= 0:
        return 0
    here = _first_page(sim, pfn, order, BUDDY)
    if here < 0:
        return 1
    zone: Zone = sim.zone_at(pfn)
    vcpu.lock_wait += zone.lock.take()
    while here >= 0:
        sim.exact_taken_again += 1
        vcpu.pfn = here
        vcpu.order = min(sim.pages.state[sim.pages.head_of(here)] & ORDER_MASK, order)
        _take(sim, vcpu, zone)
        here = _first_page(sim, pfn, order, BUDDY)
    vcpu.pfn = pfn
    vcpu.order = order
    zone.lock.release()
    return 1


@cython.cfunc
@cython.exceptval(-2)
def _first_page(
    sim: Simulation, pfn: cython.int, order: cython.int, kind: cython.int
) -> cython.int:
    """The first page of a block that lies in a block of some kind; -1 when none does."""
    here: cython.int = pfn
    end: cython.int = pfn + (1 << order)
    head: cython.int
    state: cython.int = sim.pages.state[pfn]
    if (state & KIND_MASK) not in (0, BUDDY, ISOLATED) and (state & ORDER_MASK) == order:
        # As it should be: the block itself, in use or on a per-CPU list.
        return -1
    while here < end:
        head = sim.pages.head_of(here)
        state = sim.pages.state[head] if head >= 0 else 0
        if (state & KIND_MASK) == kind:
            return here
        here += 1 << (state & ORDER_MASK) if head == here else 1
    return -1


@cython.cfunc
def _look_again(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """A strategy has isolated the page: the vCPU comes back a little later."""
    sim.exact_waits += 1
    sim.clock.now += _LOOK_AGAIN_NS
    vcpu.phase = READY
    return sim.requeue(vcpu)


@cython.cfunc
def _claim(zone: Zone, head: cython.int, order: cython.int, migratetype: cython.int) -> cython.int:
    """try_to_claim_block(): the fallback took the block's pageblocks for its own migratetype."""
    if order >= PAGEBLOCK_ORDER:
        zone.set_pageblock_types(head, order, migratetype)
    else:
        move_free_blocks(zone, head & ~(PAGEBLOCK_PAGES - 1), migratetype)
        zone.set_pageblock_types(head, 0, migratetype)
    return 0


@cython.cfunc
def _return(sim: Simulation, vcpu: Vcpu, zone: Zone) -> cython.int:
    """The block goes back to the buddy allocator: 1 done, 2 a block_merged hook waits."""
    pages = sim.pages
    pfn: cython.int = vcpu.pfn
    order: cython.int = vcpu.order
    migratetype: cython.int
    if vcpu.drain.waiting is not None:
        vcpu.drain.resume_merge(zone, ORIGIN_PCP_DRAIN, pfn, order)
        return 1 if vcpu.drain.waiting is None else 2
    if _first_page(sim, pfn, order, BUDDY) >= 0 or _first_page(sim, pfn, order, ISOLATED) >= 0:
        sim.exact_returned_again += 1
        return 1
    if sim.truth is not None:
        sim.truth.give_to_buddy(pfn)
    migratetype = pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
    sim.drained_by_order[order] += 1
    sim.clock.digest.add(sim.clock.now, vcpu.number, EVENT_RETURNED, pfn, order)
    zone.free_one_page(
        pfn,
        order,
        migratetype,
        False,
        ORIGIN_PCP_DRAIN if order <= 3 or order == PAGEBLOCK_ORDER else ORIGIN_DIRECT_FREE,
    )
    if zone.waiting is not None:
        vcpu.drain.keep_merge(zone)
        return 2
    return 1


@cython.cfunc
def _hand_out(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """A page of a per-CPU list (or just taken) is given to its user."""
    begun: cython.longlong
    clock = sim.clock
    flags: cython.uint
    point: HookPoint = sim.hooks.page_allocated
    if vcpu.phase != EXACT:
        vcpu.flags = vcpu.words[vcpu.position] & _CODE_MASK
        vcpu.order = (vcpu.flags >> 4) & 15
        vcpu.migratetype = (vcpu.flags >> 8) & 7
        vcpu.pfn = vcpu.words[vcpu.position] >> 32
        if not _leave_lists(sim, vcpu):
            return _look_again(sim, vcpu)
        clock.now += clock.costs.pcp_hit_ns
        if sim.truth is not None:
            sim.truth.hand_out(
                vcpu.number,
                sim.zone_at(vcpu.pfn),
                vcpu.pfn,
                vcpu.order,
                vcpu.migratetype,
                vcpu.flags & FLAG_SILENT != 0,
            )
        if point is not None and sim.test_hook(point, vcpu.pfn, vcpu.order):
            begun = point.begin(clock)
            coroutine = point.function(sim.hooks.guest, vcpu.number, vcpu.pfn, vcpu.order)
            point.end(clock, begun)
            if coroutine is not None and not sim.call_waiting_hook(
                vcpu, coroutine, point.name, EXACT
            ):
                return 0
    flags = vcpu.flags
    if sim.hooks.forget_when_allocated:
        for each in sim.hooks.forget_when_allocated:
            cython.cast(UnitFlags, each).forget(vcpu.pfn, vcpu.order)
    clock.digest.add(clock.now, vcpu.number, EVENT_ALLOCATED, vcpu.pfn, vcpu.order)
    sim.pages.state[vcpu.pfn] = state_of(flags, vcpu.migratetype, vcpu.order)
    if flags & (FLAG_ZERO | FLAG_TOUCHED):
        touch_pages(sim, vcpu, vcpu.pfn, vcpu.order, flags & FLAG_ZERO != 0)
    sim.backing.used.change(clock.now, sim.backing.backed_pages(vcpu.pfn, vcpu.order))
    sim.allocations += 1
    sim.latencies.add(vcpu.order, 0, clock.now - vcpu.started)
    sim.operations += 1
    vcpu.position += 1
    vcpu.phase = READY
    return sim.requeue(vcpu)


@cython.cfunc
def _give_back(sim: Simulation, vcpu: Vcpu) -> cython.int:
    """A user frees a page; a RETURN follows where it does not stay on a per-CPU list."""
    begun: cython.longlong
    clock = sim.clock
    point: HookPoint = sim.hooks.page_freeing
    vcpu.order = (vcpu.words[vcpu.position] >> 4) & 15
    vcpu.pfn = vcpu.words[vcpu.position] >> 32
    if not _leave_lists(sim, vcpu):
        return _look_again(sim, vcpu)
    vcpu.position += 1
    clock.now += clock.costs.pcp_free_ns
    clock.digest.add(clock.now, vcpu.number, EVENT_FREED, vcpu.pfn, vcpu.order)
    sim.frees += 1
    if sim.truth is not None:
        sim.truth.give_back(vcpu.number, sim.zone_at(vcpu.pfn), vcpu.pfn, vcpu.order)
    sim.pages.state[vcpu.pfn] = PCP | vcpu.order
    leave_user(sim, vcpu.pfn, vcpu.order)
    if point is not None and sim.test_hook(point, vcpu.pfn, vcpu.order):
        begun = point.begin(clock)
        coroutine = point.function(sim.hooks.guest, vcpu.number, vcpu.pfn, vcpu.order)
        point.end(clock, begun)
        if coroutine is not None and not sim.call_waiting_hook(vcpu, coroutine, point.name, DONE):
            return 0
    sim.operations += 1
    vcpu.phase = READY
    return sim.requeue(vcpu)
