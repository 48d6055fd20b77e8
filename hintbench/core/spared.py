"""Blocks that a recorded kernel leaves alone, for a strategy that takes memory in an exact replay.

There every block that the kernel takes is named, and must be in its free lists then. What the
strategy allocates for itself comes from the pages that the recording never names, so that both
get what they want. Under pressure there are few of those, and the strategy holds little.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        NR_PAGE_ORDERS,
        REASON_ALLOCATION,
        REASON_SPLIT,
        TRANSIT,
    )
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        NR_PAGE_ORDERS,
        REASON_ALLOCATION,
        REASON_SPLIT,
        TRANSIT,
    )


@cython.cfunc
@cython.exceptval(-2)
def take_spared(
    zone: Buddy, order: cython.int, migratetype: cython.int, named: object
) -> cython.int:
    """The first block of ``order`` that holds no named page leaves its list; -1 without one.

    ``named`` has a byte for each page of the guest. What the block was split from goes back to
    the heads of the lists, as expand() does.
    """
    current: cython.int
    each: cython.int
    kind: cython.int
    head: cython.int
    pfn: cython.int
    part: cython.int
    for current in range(order, NR_PAGE_ORDERS):
        for each in range(HIGHATOMIC):
            # The own type first, then the others.
            kind = each
            if each == 0:
                kind = migratetype
            elif each <= migratetype:
                kind = each - 1
            head = zone.list_of(current, kind)
            pfn = zone.pages.next[head]
            while pfn != head:
                part = pfn
                while part < pfn + (1 << current):
                    if not any(named[part : part + (1 << order)]):
                        _take_part(zone, pfn, current, part, order, kind)
                        return part
                    part += 1 << order
                pfn = zone.pages.next[pfn]
    return -1


@cython.cfunc
@cython.exceptval(-1)
def _take_part(
    zone: Buddy,
    head: cython.int,
    high: cython.int,
    pfn: cython.int,
    order: cython.int,
    migratetype: cython.int,
) -> cython.int:
    """page_del_and_expand() that keeps a part of its caller's choice."""
    whole: cython.int = high
    other: cython.int
    zone.charge_block(head)
    zone.pages.remove(head)
    zone.nr_free[high] -= 1
    zone.free_pages -= 1 << order
    zone.pages.state[head] = TRANSIT | high
    zone.call_block_taken(head, high, REASON_SPLIT if high > order else REASON_ALLOCATION)
    zone.pages.state[head] = 0
    while high > order:
        high -= 1
        if pfn & (1 << high):
            other = pfn & ~((1 << (high + 1)) - 1)
        else:
            other = (pfn & ~((1 << high) - 1)) + (1 << high)
        zone.pages.state[other] = BUDDY | high
        zone.pages.add_head(zone.list_of(high, migratetype), other)
        zone.nr_free[high] += 1
    zone.pages.state[pfn] = TRANSIT | order
    if zone.split is not None:
        zone.split.taken(pfn, whole, order)
    return 0
