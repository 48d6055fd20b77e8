"""Are the free lists in order?  A quick look, for runs by the thousand.

:func:`hintbench.validate` says everything that is wrong with a guest; this says whether
anything is, in a fiftieth of the time, and survives lists that lead nowhere.
"""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
    from hintbench.core.zone import Zone


def list_fault(zone: Any) -> tuple[str, str] | None:
    """What is wrong with the free lists of a zone.

    Returns:
        None when all is well; else what kind of fault (``"links"``, ``"heads"``, ``"count"``,
        ``"unmerged"``) and a sentence.
    """
    mine: Zone = zone
    order: cython.int
    migratetype: cython.int
    head: cython.int
    pfn: cython.int
    before: cython.int
    listed: cython.int
    free: cython.longlong = 0
    heads: cython.longlong = 0
    pages = mine.pages
    for order in range(NR_PAGE_ORDERS):
        listed = 0
        for migratetype in range(MIGRATE_TYPES):
            head = mine.list_of(order, migratetype)
            before = head
            pfn = pages.next[head]
            while pfn != head:
                if pfn >= pages.page_count or pages.prev[pfn] != before:
                    return "links", f"list {order} of {zone}: {pfn:#x} does not lead back"
                if pages.state[pfn] != (BUDDY | order):
                    return "heads", f"list {order} of {zone}: {pfn:#x} is no free block"
                listed += 1
                if listed > pages.page_count:
                    return "links", f"list {order} of {zone} has no end"
                before = pfn
                pfn = pages.next[pfn]
            if pages.prev[head] != before:
                return "links", f"list {order} of {zone}: its tail is not {before:#x}"
        if listed != mine.nr_free[order]:
            text = f"{zone} counts {mine.nr_free[order]} free blocks of order {order}"
            return "count", f"{text}, its lists have {listed}"
        heads += listed
        free += cython.cast(cython.longlong, listed) << order
    if free != mine.free_pages:
        return "count", f"{zone} counts {mine.free_pages} free pages, its lists have {free}"
    return _heads_fault(mine, heads)


@cython.cfunc
def _heads_fault(zone: Zone, listed: cython.longlong) -> object:
    """Every head that is marked free is on a list, and no two free buddies lie side by side."""
    pfn: cython.int = zone.start_pfn
    order: cython.int
    buddy: cython.int
    state: cython.int
    heads: cython.longlong = 0
    pages = zone.pages
    while pfn < zone.end_pfn:
        state = pages.state[pfn]
        order = state & ORDER_MASK
        if (state & KIND_MASK) == BUDDY:
            heads += 1
            buddy = pfn ^ (1 << order)
            if order < MAX_PAGE_ORDER and buddy > pfn and pages.state[buddy] == state:
                if order < PAGEBLOCK_ORDER or (
                    pages.pageblock_type[pfn >> PAGEBLOCK_ORDER] < HIGHATOMIC
                    and pages.pageblock_type[buddy >> PAGEBLOCK_ORDER] < HIGHATOMIC
                ):
                    return "unmerged", f"{pfn:#x} and its buddy of order {order} are both free"
        pfn += 1 << order if state else 1
    if heads != listed:
        return "heads", f"{heads} blocks of {zone} are marked free, {listed} are on its lists"
    return None
