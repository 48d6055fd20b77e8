"""Allocation that falls back to other migratetypes: __rmqueue() and what it calls.

6.12 has claim and steal (``__rmqueue_claim``, ``__rmqueue_steal``); 5.0 has
``__rmqueue_fallback`` with ``steal_suitable_fallback``.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        COMPOUND_MOVABLE,
        HIGHATOMIC,
        IN_USE_MOVABLE,
        KERNEL_6_12,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MOVABLE,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        REASON_ALLOCATION,
        RECLAIMABLE,
        UNMOVABLE,
    )
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        BUDDY,
        COMPOUND_MOVABLE,
        HIGHATOMIC,
        IN_USE_MOVABLE,
        KERNEL_6_12,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MOVABLE,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        REASON_ALLOCATION,
        RECLAIMABLE,
        UNMOVABLE,
    )

MODE_NORMAL = cython.declare(cython.int, 0)
MODE_CLAIM = cython.declare(cython.int, 1)
MODE_STEAL = cython.declare(cython.int, 2)

# watermark_boost_factor, in 1/10000 of the high watermark.
_BOOST_FACTOR = cython.declare(cython.longlong, 15000)


@cython.final
@cython.cclass
class FallbackMode:
    """enum rmqueue_mode: where the last page of this lock hold was found."""

    def __init__(self) -> None:
        self.mode = 0


@cython.cfunc
@cython.exceptval(check=False)
def _fallback(start_type: cython.int, index: cython.int) -> cython.int:
    """The kernel's ``fallbacks[][]`` table."""
    if start_type == UNMOVABLE:
        return RECLAIMABLE if index == 0 else MOVABLE
    if start_type == MOVABLE:
        return RECLAIMABLE if index == 0 else UNMOVABLE
    return UNMOVABLE if index == 0 else MOVABLE


@cython.cfunc
@cython.exceptval(check=False)
def _suitable(zone: Buddy, order: cython.int, start_type: cython.int) -> cython.int:
    """find_suitable_fallback() without only_stealable: the type to take from, -1 for none."""
    first: cython.int
    if start_type >= HIGHATOMIC or zone.nr_free[order] == 0:
        return -1
    first = _fallback(start_type, 0)
    if zone.has_free(order, first):
        return first
    first = _fallback(start_type, 1)
    return first if zone.has_free(order, first) else -1


@cython.cfunc
@cython.exceptval(check=False)
def _may_claim(order: cython.int, start_type: cython.int) -> cython.bint:
    """can_steal_fallback() (5.0, 6.12), should_try_claim_block() (later)."""
    return order >= PAGEBLOCK_ORDER // 2 or start_type in (RECLAIMABLE, UNMOVABLE)


@cython.cfunc
def _boost_watermark(zone: Buddy, high_pages: cython.longlong) -> cython.int:
    """boost_watermark()."""
    most: cython.longlong
    if not zone.allow_boost:
        return 0
    most = high_pages * _BOOST_FACTOR // 10000
    if most < PAGEBLOCK_PAGES:
        most = PAGEBLOCK_PAGES
    zone.boosted = True
    zone.watermark_boost += PAGEBLOCK_PAGES
    if zone.watermark_boost > most:
        zone.watermark_boost = most
    return 1


@cython.cfunc
@cython.exceptval(-1)
def _pages_of_kind(zone: Buddy, start: cython.int, free: cython.bint) -> cython.int:
    """Free pages of a pageblock, or its pages of movable allocations."""
    pfn: cython.int = start
    end: cython.int = (start | (PAGEBLOCK_PAGES - 1)) + 1
    count: cython.int = 0
    state: cython.int
    kind: cython.int
    while pfn < end:
        state = zone.pages.state[pfn]
        kind = state & KIND_MASK
        if (kind == BUDDY) if free else (kind in (IN_USE_MOVABLE, COMPOUND_MOVABLE)):
            count += 1 << (state & ORDER_MASK)
        pfn += 1 << (state & ORDER_MASK)
    return count


@cython.cfunc
@cython.exceptval(check=False)
def _straddles(zone: Buddy, start: cython.int) -> cython.bint:
    """Whether a pageblock lies partly outside its zone; such a one is never moved."""
    return start < zone.start_pfn or start + PAGEBLOCK_PAGES > zone.end_pfn


@cython.cfunc
def move_free_blocks(zone: Buddy, start_pfn: cython.int, new_type: cython.int) -> cython.int:
    """__move_freepages_block(): every free block of the pageblock changes its list.

    To the tail in 6.12 (list_move_tail), to the head in 5.0 (list_move).

    Returns:
        How many pages were moved.
    """
    pfn: cython.int = start_pfn
    end: cython.int = (start_pfn | (PAGEBLOCK_PAGES - 1)) + 1
    state: cython.int
    order: cython.int
    moved: cython.int = 0
    while pfn < end:
        state = zone.pages.state[pfn]
        order = state & ORDER_MASK
        if (state & KIND_MASK) == BUDDY:
            zone.pages.remove(pfn)
            zone.charge_block(pfn)
            moved += 1 << order
            if zone.kernel >= KERNEL_6_12:
                zone.pages.add_tail(zone.list_of(order, new_type), pfn)
            else:
                zone.pages.add_head(zone.list_of(order, new_type), pfn)
        pfn += 1 << order
    return moved


@cython.cfunc
def move_pageblock_5_0(zone: Buddy, pfn: cython.int, new_type: cython.int) -> cython.int:
    """move_freepages_block() of 5.0: the free blocks of the pageblock around ``pfn``.

    A pageblock that begins before its zone is moved from ``pfn`` on, one that ends behind it not
    at all.

    Returns:
        How many pages were moved.
    """
    start: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
    if start + PAGEBLOCK_PAGES > zone.end_pfn:
        return 0
    return move_free_blocks(zone, pfn if start < zone.start_pfn else start, new_type)


@cython.cfunc
@cython.exceptval(-2)
def _worth_claiming(
    zone: Buddy, start: cython.int, start_type: cython.int, block_type: cython.int
) -> cython.int:
    """Whether free and alike pages make up half of the pageblock; -1 when none is free."""
    free: cython.int = _pages_of_kind(zone, start, True)
    movable: cython.int = _pages_of_kind(zone, start, False)
    alike: cython.int = 0
    zone.clock.now += PAGEBLOCK_PAGES * zone.clock.costs.page_visit_ns
    if start_type == MOVABLE:
        alike = movable
    elif block_type == MOVABLE:
        # Everything that is neither free nor movable is taken for compatible.
        alike = PAGEBLOCK_PAGES - (free + movable)
    if free == 0:
        return -1
    return free + alike >= PAGEBLOCK_PAGES // 2


@cython.cfunc
@cython.exceptval(-2)
def _claim(
    zone: Buddy,
    order: cython.int,
    start_type: cython.int,
    no_fragment: cython.bint,
    high_pages: cython.longlong,
) -> cython.int:
    """__rmqueue_claim(): from the largest order down, a whole block or a whole pageblock."""
    current: cython.int = MAX_PAGE_ORDER
    lowest: cython.int = order
    block_type: cython.int
    pfn: cython.int
    start: cython.int
    if no_fragment and order < PAGEBLOCK_ORDER:
        lowest = PAGEBLOCK_ORDER
    while current >= lowest:
        block_type = _suitable(zone, current, start_type)
        if block_type >= 0:
            if not _may_claim(current, start_type):
                break
            pfn = zone.pages.next[zone.list_of(current, block_type)]
            if current >= PAGEBLOCK_ORDER:
                zone.set_pageblock_types(pfn, current, start_type)
                zone.take_block(pfn, current, order, start_type, REASON_ALLOCATION)
                return pfn
            _boost_watermark(zone, high_pages)
            start = pfn & ~(PAGEBLOCK_PAGES - 1)
            block_type = zone.pages.pageblock_type[start >> PAGEBLOCK_ORDER]
            if not _straddles(zone, start) and (
                _worth_claiming(zone, start, start_type, block_type) == 1
            ):
                move_free_blocks(zone, start, start_type)
                zone.pages.retype(start >> PAGEBLOCK_ORDER, start_type)
                return zone.rmqueue_smallest(order, start_type)
        current -= 1
    return -1


@cython.cfunc
@cython.exceptval(-2)
def _steal(zone: Buddy, order: cython.int, start_type: cython.int) -> cython.int:
    """__rmqueue_steal(): the smallest block that does; the pageblock keeps its type."""
    current: cython.int
    block_type: cython.int
    pfn: cython.int
    for current in range(order, NR_PAGE_ORDERS):
        block_type = _suitable(zone, current, start_type)
        if block_type >= 0:
            pfn = zone.pages.next[zone.list_of(current, block_type)]
            zone.take_block(pfn, current, order, block_type, REASON_ALLOCATION)
            return pfn
    return -1


@cython.cfunc
@cython.exceptval(-2)
def _fallback_5_0(
    zone: Buddy,
    order: cython.int,
    start_type: cython.int,
    no_fragment: cython.bint,
    high_pages: cython.longlong,
) -> cython.int:
    """__rmqueue_fallback() of 5.0: 1 when __rmqueue_smallest() is worth another try."""
    current: cython.int = MAX_PAGE_ORDER
    lowest: cython.int = PAGEBLOCK_ORDER if no_fragment else order
    block_type: cython.int = -1
    claim: cython.bint = False
    while current >= lowest:
        block_type = _suitable(zone, current, start_type)
        if block_type >= 0:
            claim = _may_claim(current, start_type)
            break
        current -= 1
    if block_type < 0:
        return 0
    if not claim and start_type == MOVABLE and current > order:
        # The smallest block causes the least fragmentation then.
        current = order
        while current <= MAX_PAGE_ORDER:
            block_type = _suitable(zone, current, start_type)
            if block_type >= 0:
                break
            current += 1
    _steal_suitable(zone, current, block_type, start_type, claim, high_pages)
    return 1


@cython.cfunc
def _steal_suitable(
    zone: Buddy,
    current: cython.int,
    list_type: cython.int,
    start_type: cython.int,
    whole_block: cython.bint,
    high_pages: cython.longlong,
) -> cython.int:
    """steal_suitable_fallback() of 5.0: the block, or all of its pageblock, changes lists."""
    pfn: cython.int = zone.pages.next[zone.list_of(current, list_type)]
    start: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
    block_type: cython.int = zone.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
    worth: cython.int
    if block_type >= HIGHATOMIC:
        # "This can happen due to races": a page that was freed before its pageblock was set aside.
        pass
    elif current >= PAGEBLOCK_ORDER:
        zone.set_pageblock_types(pfn, current, start_type)
    else:
        _boost_watermark(zone, high_pages)
        if start < zone.start_pfn:
            # move_freepages_block() of 5.0 then begins at the block that was found.
            start = pfn
        if whole_block and (pfn | (PAGEBLOCK_PAGES - 1)) < zone.end_pfn:
            worth = _worth_claiming(zone, start, start_type, block_type)
            if worth >= 0:
                move_free_blocks(zone, start, start_type)
                if worth:
                    zone.pages.retype(pfn >> PAGEBLOCK_ORDER, start_type)
                return 0
    zone.pages.remove(pfn)
    zone.pages.add_head(zone.list_of(current, start_type), pfn)
    return 0


@cython.cfunc
def rmqueue(
    zone: Buddy,
    order: cython.int,
    migratetype: cython.int,
    no_fragment: cython.bint,
    mode: FallbackMode,
) -> cython.int:
    """__rmqueue(): a block of ``order``, in transit to the caller; -1 when the zone has none.

    ``mode`` is kept over one lock hold: a bulk that had to steal does not look again for
    something to claim with every page.
    """
    pfn: cython.int
    high_pages: cython.longlong = zone.high_watermark_pages
    if zone.kernel < KERNEL_6_12:
        while True:
            pfn = zone.rmqueue_smallest(order, migratetype)
            if pfn >= 0:
                return pfn
            if not _fallback_5_0(zone, order, migratetype, no_fragment, high_pages):
                return -1
    if mode.mode == MODE_NORMAL:
        pfn = zone.rmqueue_smallest(order, migratetype)
        if pfn >= 0:
            return pfn
    if mode.mode <= MODE_CLAIM:
        pfn = _claim(zone, order, migratetype, no_fragment, high_pages)
        if pfn >= 0:
            mode.mode = MODE_NORMAL
            return pfn
    if not no_fragment:
        pfn = _steal(zone, order, migratetype)
        if pfn >= 0:
            mode.mode = MODE_STEAL
            return pfn
    return -1


@cython.cfunc
def mark_isolated(zone: Buddy, pfn: cython.int, order: cython.int) -> cython.int:
    """The side effect of __isolate_free_page(): large isolations make pageblocks MOVABLE.

    6.12 also moves the pageblock's other free blocks to that type's lists.
    """
    start: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
    if order < PAGEBLOCK_ORDER - 1:
        return 0
    while start < pfn + (1 << order):
        if zone.pages.pageblock_type[start >> PAGEBLOCK_ORDER] < HIGHATOMIC:
            if zone.kernel < KERNEL_6_12:
                zone.pages.retype(start >> PAGEBLOCK_ORDER, MOVABLE)
            elif not _straddles(zone, start):
                move_free_blocks(zone, start, MOVABLE)
                zone.pages.retype(start >> PAGEBLOCK_ORDER, MOVABLE)
        start += PAGEBLOCK_PAGES
    return 0
