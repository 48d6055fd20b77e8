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
        KERNEL_6_12,
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
        KERNEL_6_12,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
    from hintbench.core.zone import Zone

_TYPE_NAMES = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC")
"""By migratetype."""


def list_fault(zone: Any) -> tuple[str, str] | None:
    """What is wrong with the free lists of a zone.

    Returns:
        None when all is well; else what kind of fault (``"links"``, ``"heads"``, ``"type"``,
        ``"count"``, ``"unmerged"``) and a sentence.
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
    # Since 6.10 __add_to_free_list() and __del_page_from_free_list() warn of any other list.
    hygienic: cython.bint = mine.kernel >= KERNEL_6_12
    for order in range(NR_PAGE_ORDERS):
        listed = 0
        for migratetype in range(MIGRATE_TYPES):
            head = mine.list_of(order, migratetype)
            before = head
            pfn = pages.next[head]
            while pfn != head:
                if pfn >= pages.page_count:
                    return "links", f"{_name_of(mine, head)} runs into {_name_of(mine, pfn)}"
                if pages.prev[pfn] != before:
                    text = f"pfn {pfn:#x} does not lead back to what comes before it"
                    return "links", f"{_name_of(mine, head)}: {text}"
                if pages.state[pfn] != (BUDDY | order):
                    text = f"pfn {pfn:#x} is no free block of that order"
                    return "heads", f"{_name_of(mine, head)}: {text}"
                if hygienic and pages.pageblock_type[pfn >> PAGEBLOCK_ORDER] != migratetype:
                    kind = _TYPE_NAMES[pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]]
                    text = f"pfn {pfn:#x} is of a pageblock of type {kind}"
                    return "type", f"{_name_of(mine, head)}: {text}"
                listed += 1
                if listed > pages.page_count:
                    return "links", f"{_name_of(mine, head)} has no end"
                before = pfn
                pfn = pages.next[pfn]
            if pages.prev[head] != before:
                text = "it is empty" if before == head else f"pfn {before:#x} is its last block"
                return "links", f"{_name_of(mine, head)}: {text}, but its tail is another"
        if listed != mine.nr_free[order]:
            text = f"{zone} counts {mine.nr_free[order]} free blocks of order {order}"
            return "count", f"{text}, its lists have {listed}"
        heads += listed
        free += cython.cast(cython.longlong, listed) << order
    if free != mine.free_pages:
        return "count", f"{zone} counts {mine.free_pages} free pages, its lists have {free}"
    return _heads_fault(mine, heads)


@cython.cfunc
def _name_of(zone: Zone, head: cython.int) -> object:
    """What a list is called, by its head, which has a number behind all pfns."""
    at: cython.int = head - zone.first_list
    if not 0 <= at < NR_PAGE_ORDERS * MIGRATE_TYPES:
        return "a list of another zone or of a CPU"
    kind = _TYPE_NAMES[at % MIGRATE_TYPES]
    return f"the {kind} free list of order {at // MIGRATE_TYPES} of {zone}"


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
                    return "unmerged", f"pfn {pfn:#x} and its buddy of order {order} are both free"
        pfn += 1 << order if state else 1
    if heads != listed:
        return "heads", f"{heads} blocks of {zone} are marked free, {listed} are on its lists"
    return None
