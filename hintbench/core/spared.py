"""Blocks that a recorded kernel leaves alone, for a strategy that takes memory in an exact replay.

There every block that the kernel takes is named, and must be in its free lists then. What the
strategy allocates for itself comes from the pages that the recording never names, so that both
get what they want. Under pressure there are few of those, and the strategy holds little.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        HIGHATOMIC,
        NR_PAGE_ORDERS,
        TRANSIT,
    )
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        HIGHATOMIC,
        NR_PAGE_ORDERS,
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
                        zone.take_part(pfn, current, part, order, kind, TRANSIT)
                        return part
                    part += 1 << order
                pfn = zone.pages.next[pfn]
    return -1
