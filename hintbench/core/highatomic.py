"""Pageblocks that are set aside for atomic allocations of more than a page.

Such an allocation that had to go below the low watermark reserves the pageblock that it came from,
so that the next one finds a block there: up to a hundredth of a zone, in zones of 200 MiB or more.
Before a blocking allocation fails, reserved pageblocks go back.

5.0 does so in zones of every size, for a pageblock more, and one at a time (of a block of order 10
the first). It counts what is reserved where 6.12 counts what of it is free.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        NR_PAGE_ORDERS,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
    )
    from cython.cimports.hintbench.core.fallback import move_free_blocks, move_pageblock_5_0
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        NR_PAGE_ORDERS,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
    )
    from hintbench.core.fallback import move_free_blocks, move_pageblock_5_0
    from hintbench.core.zone import Zone


@cython.cfunc
@cython.exceptval(check=False)
def may_reserve(zone: Zone) -> cython.bint:
    """Whether a zone is large enough for a reserve, and has less of it than it may have."""
    share: cython.longlong = zone.managed_pages // 100
    if zone.kernel < KERNEL_6_12:
        return zone.reserved_highatomic < share + PAGEBLOCK_PAGES
    if share < PAGEBLOCK_PAGES:
        return False
    share = (share + PAGEBLOCK_PAGES - 1) // PAGEBLOCK_PAGES * PAGEBLOCK_PAGES
    return zone.reserved_highatomic < share


@cython.cfunc
def reserve(zone: Zone, pfn: cython.int, order: cython.int) -> cython.int:
    """reserve_highatomic_pageblock(), under the zone's lock: the pageblock of what was taken."""
    start: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
    if not may_reserve(zone) or zone.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER] >= HIGHATOMIC:
        return 0
    if zone.kernel < KERNEL_6_12:
        zone.reserved_highatomic += PAGEBLOCK_PAGES
        zone.free_highatomic = zone.reserved_highatomic
        zone.pages.retype(pfn >> PAGEBLOCK_ORDER, HIGHATOMIC)
        move_pageblock_5_0(zone, pfn, HIGHATOMIC)
        return 0
    if order >= PAGEBLOCK_ORDER:
        zone.set_pageblock_types(pfn, order, HIGHATOMIC)
        zone.reserved_highatomic += 1 << order
        return 0
    if start < zone.start_pfn or start + PAGEBLOCK_PAGES > zone.end_pfn:
        return 0
    zone.free_highatomic += move_free_blocks(zone, start, HIGHATOMIC)
    zone.pages.retype(start >> PAGEBLOCK_ORDER, HIGHATOMIC)
    zone.reserved_highatomic += PAGEBLOCK_PAGES
    return 0


@cython.ccall
def unreserve(zone: Zone, migratetype: cython.int) -> cython.bint:
    """unreserve_highatomic_pageblock() for one zone, under its lock.

    Args:
        zone: The zone.
        migratetype: What the pageblock becomes: the type of the allocation that is in need.

    Returns:
        Whether free pages went to that type's lists.
    """
    order: cython.int
    pfn: cython.int
    moved: cython.longlong
    for order in range(NR_PAGE_ORDERS):
        if not zone.has_free(order, HIGHATOMIC):
            continue
        pfn = zone.pages.next[zone.list_of(order, HIGHATOMIC)]
        if zone.kernel < KERNEL_6_12:
            if zone.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER] == HIGHATOMIC:
                zone.reserved_highatomic -= min(PAGEBLOCK_PAGES, zone.reserved_highatomic)
                zone.free_highatomic = zone.reserved_highatomic
            zone.pages.retype(pfn >> PAGEBLOCK_ORDER, migratetype)
            if move_pageblock_5_0(zone, pfn, migratetype) > 0:
                return True
            continue
        moved = max(PAGEBLOCK_PAGES, 1 << order)
        zone.reserved_highatomic -= min(moved, zone.reserved_highatomic)
        if order < PAGEBLOCK_ORDER:
            pfn &= ~(PAGEBLOCK_PAGES - 1)
            moved = move_free_blocks(zone, pfn, migratetype)
            zone.pages.retype(pfn >> PAGEBLOCK_ORDER, migratetype)
        else:
            zone.pages.remove(pfn)
            zone.charge_block(pfn)
            zone.pages.add_tail(zone.list_of(order, migratetype), pfn)
            zone.set_pageblock_types(pfn, order, migratetype)
        zone.free_highatomic -= moved
        return True
    return False
