"""What page migration does to the allocator: free blocks set aside, pages to move, their return.

The part of mm/compaction.c that edits free lists and per-CPU lists; which pages are moved, and
when, is :mod:`hintbench.kernel.compaction`'s business.
"""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_FREED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        IN_USE_MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        TRANSIT,
    )
    from cython.cimports.hintbench.core.fallback import mark_isolated
    from cython.cimports.hintbench.core.freeing import leave_user
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.pages import Pages
    from cython.cimports.hintbench.core.pcp import PerCpuPages, pcp_index
    from cython.cimports.hintbench.core.simulation import Simulation, log_event
    from cython.cimports.hintbench.core.vcpu import Drain
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        BUDDY,
        EVENT_FREED,
        EVENT_RETURNED,
        EVENT_TAKEN,
        IN_USE_MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        TRANSIT,
    )
    from hintbench.core.fallback import mark_isolated
    from hintbench.core.freeing import leave_user
    from hintbench.core.hooks import HookPoint
    from hintbench.core.pages import Pages
    from hintbench.core.pcp import PerCpuPages, pcp_index
    from hintbench.core.simulation import Simulation, log_event
    from hintbench.core.vcpu import Drain
    from hintbench.core.zone import Zone


@cython.ccall
def isolate_free_blocks(
    zone: Zone,
    first_pfn: cython.int,
    end_pfn: cython.int,
    wanted: cython.int,
    stride: cython.int = 1,
) -> tuple[Any, int]:
    """isolate_freepages_block(): whole free blocks of a range leave their lists, upwards.

    The zone's lock must be held. It ends with the block that makes up ``wanted`` pages, and where
    __isolate_free_page() refuses for the min watermark.

    Args:
        zone: whose pages.
        first_pfn: where it begins.
        end_pfn: one past the last page.
        wanted: pages that are needed.
        stride: pages from one that is looked at to the next.

    Returns:
        (pfn, order) of each block, which is in transit, and the page at which it has stopped.
    """
    pages: Pages = zone.pages
    pfn: cython.int = first_pfn
    state: cython.int
    order: cython.int
    found: list = []
    while pfn < end_pfn:
        state = pages.state[pfn]
        order = state & ORDER_MASK
        if state == BUDDY | order:
            if not zone.may_isolate(order):
                break
            zone.take_block(
                pfn, order, order, pages.pageblock_type[pfn >> PAGEBLOCK_ORDER], REASON_ISOLATION
            )
            mark_isolated(zone, pfn, order)
            zone.clock.digest.add(zone.clock.now, zone.clock.cpu, EVENT_TAKEN, pfn, order)
            found.append((pfn, order))
            wanted -= 1 << order
            if wanted <= 0:
                pfn += 1 << order
                break
        pfn += (1 << order) - 1 + stride
    return found, min(pfn, end_pfn)


@cython.ccall
def movable_pages(
    pages: Pages, first_pfn: cython.int, end_pfn: cython.int, most: cython.int
) -> list[int]:
    """isolate_migratepages_block(): pages of a range that can be moved, upwards, single ones."""
    pfn: cython.int = first_pfn
    state: cython.int
    found: list = []
    while pfn < end_pfn and len(found) < most:
        state = pages.state[pfn]
        if state == IN_USE_MOVABLE:
            found.append(pfn)
        pfn += 1 << (state & ORDER_MASK)
    return found


@cython.ccall
def move_page(
    sim: Simulation, source: cython.int, destination: cython.int, slot: cython.int
) -> cython.int:
    """The owner of ``source`` goes on with ``destination``, unless it has freed it meanwhile.

    Returns:
        1 when it was moved; 0 when ``source`` is in use no more, or by another slot. -1 is the
        slot of an owner that never frees it.
    """
    if sim.pages.state[source] != IN_USE_MOVABLE or (slot >= 0 and sim.slots[slot] != source):
        return 0
    leave_user(sim, source, 0)
    sim.pages.state[source] = TRANSIT
    sim.pages.state[destination] = IN_USE_MOVABLE
    sim.backing.used.change(sim.clock.now, 1)
    if slot >= 0:
        sim.slots[slot] = destination
    return 1


@cython.ccall
def concerns_hook(
    sim: Simulation, point: HookPoint | None, pfn: cython.int, order: cython.int
) -> cython.bint:
    """Whether a hook wants to hear of a block; what its test costs is charged either way."""
    return point is not None and sim.test_hook(point, pfn, order) != 0


@cython.ccall
def free_to_pcp(
    sim: Simulation, pcp: PerCpuPages, pfn: cython.int, order: cython.int, drain: Drain
) -> cython.bint:
    """free_unref_page() of a block in transit.

    Returns:
        Whether pages are to be drained now: ``drain`` has begun then, with the list that the block
        has joined (free_unref_page_commit() passes its ``pindex``).
    """
    migratetype: cython.int = pcp.type_of_freed(pfn)
    count: cython.longlong
    sim.clock.now += sim.clock.costs.pcp_free_ns
    sim.clock.digest.add(sim.clock.now, sim.clock.cpu, EVENT_FREED, pfn, order)
    pcp.alloc_factor >>= 1
    pcp.push(pfn, order, migratetype)
    count = pcp.to_drain(order)
    if count > 0:
        drain.begin(pcp, count, pcp_index(sim.kernel, order, migratetype))
    return count > 0


@cython.ccall
def run_direct_free(
    sim: Simulation, zone: Zone, drain: Drain, pfn: cython.int, order: cython.int
) -> cython.bint:
    """free_one_page() of a block in transit under the zone's lock, which the caller holds.

    Returns:
        False when a ``block_merged`` hook wants to drop the lock: ``drain.waiting`` is its
        coroutine, and once that has ended and holds the lock again the free goes on here.
    """
    if drain.waiting is not None:
        drain.resume_merge(zone, ORIGIN_DIRECT_FREE, pfn, order)
    else:
        log_event(sim, sim.clock.now, sim.clock.cpu, EVENT_RETURNED, pfn, order)
        zone.free_one_page(
            pfn, order, sim.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER], False, ORIGIN_DIRECT_FREE
        )
        if zone.waiting is not None:
            drain.keep_merge(zone)
    return drain.waiting is None
